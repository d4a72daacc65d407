"""Checks that settings make of themselves when they are built."""

from typing import Literal, get_args, get_origin, get_type_hints

from nemo_bielik.errors import ConfigError


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raise `ConfigError`, saying what is `allowed`, unless the setting `name` holds it."""
    if not holds:
        raise ConfigError(f"{name} is {value!r}; it must be {allowed}")


def check_choices(config: object) -> None:
    """Raise `ConfigError` for a field whose value is not among those that its type names."""
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            allowed = ", ".join(map(str, get_args(kind)))
            raise ConfigError(f"{name} is {getattr(config, name)!r}; allowed are {allowed}")
