"""A TOML table read into a dataclass: every key known, every value of its field's type.

The dataclasses of the sites say what a table holds; the complaints name the place
in the file, so that one line is enough to mend it.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from nemo_bielik.errors import ConfigError, nearest

_NAMES = {
    str: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path in quotes",
}


def read_toml(path: Path) -> dict[str, Any]:
    """Return what the TOML file `path` holds; raise `ConfigError` if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML ({error})") from None


def read_table(kind: type, table: Mapping[str, Any], where: str) -> Any:
    """Build the dataclass `kind` from `table`; `where` (``site.toml: [cluster]``) heads messages.

    Raises `ConfigError` for a key that is unknown, missing or of another type than its field.
    """
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in table:
        if key not in known:
            raise ConfigError(
                f"{where}: unknown setting {key!r}{nearest(key, known)}; "
                f"known are {', '.join(known)}"
            )
    for name, field in known.items():
        if name not in table and field.default is MISSING and field.default_factory is MISSING:
            meaning = field.metadata.get("help", "")
            raise ConfigError(f"{where}: {name} is missing ({meaning})")
    hints = get_type_hints(kind)
    values = {key: _value(hints[key], item, f"{where}: {key}") for key, item in table.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(kind: Any, given: Any, where: str) -> Any:
    kind = _without_none(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        _require(isinstance(given, Mapping), where, given, "a table")
        return read_table(kind, given, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        _require(given in arguments, where, given, f"one of {', '.join(map(str, arguments))}")
        return given
    if origin is list:
        _require(isinstance(given, list), where, given, "a list in [ ]")
        return [_value(arguments[0], item, f"{where}[{n}]") for n, item in enumerate(given)]
    if origin is dict:
        _require(isinstance(given, Mapping), where, given, "a table")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in given.items()}
    return _scalar(kind, given, where)


def _scalar(kind: Any, given: Any, where: str) -> Any:
    if kind is Any:
        return given
    if get_origin(kind) in (Union, UnionType):
        fits = any(type(given) is member for member in get_args(kind))
        allowed = " or ".join(_NAMES[member] for member in get_args(kind))
        _require(fits, where, given, allowed)
        return given
    if kind is Path:
        _require(isinstance(given, str) and given != "", where, given, _NAMES[Path])
        return Path(given).expanduser()
    if kind is float and type(given) is int:
        return float(given)
    _require(type(given) is kind, where, given, _NAMES[kind])
    return given


def _require(holds: bool, where: str, given: Any, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{where} is {given!r}; it must be {allowed}")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, UnionType):
        return kind
    members = [member for member in get_args(kind) if member is not type(None)]
    return members[0] if len(members) == 1 else kind
