"""Text to a value of an annotated type: what `--option value` and ``path=value`` mean."""

import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from nemo_bielik.errors import ConfigError, nearest

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false"}


def parse_value(kind: Any, given: Any, where: str) -> Any:
    """Return `given` (text, words, or a bool from a flag) as a value of type `kind`.

    `where` names the option or setting in the `ConfigError` that an unreadable value raises.
    """
    if isinstance(given, bool):
        return given
    if isinstance(given, str) and allows_none(kind) and given.lower() in ("none", "null"):
        return None
    if is_list(kind):
        return _parse_list(_without_none(kind), given, where)
    members = _members(kind)
    for member in members[:-1]:
        try:
            return _parse_scalar(member, given, where)
        except ConfigError:
            continue
    return _parse_scalar(members[-1], given, where)


def is_boolean(kind: Any) -> bool:
    """Whether `kind` is a plain on/off switch."""
    return kind is bool


def is_list(kind: Any) -> bool:
    """Whether `kind` is a list or tuple, optional or not."""
    return get_origin(_without_none(kind)) in (list, tuple) or _without_none(kind) in (list, tuple)


def allows_none(kind: Any) -> bool:
    """Whether None is a value of `kind`."""
    return _is_union(kind) and type(None) in get_args(kind)


def metavar(kind: Any) -> str:
    """Return what a help text shows in place of a value."""
    kind = _without_none(kind)
    if is_list(kind):
        arguments = [a for a in get_args(kind) if a is not Ellipsis]
        return metavar(arguments[0]) if arguments else "TEXT"
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "{" + ",".join(str(member.value) for member in kind) + "}"
    if kind is bool:
        return "{true,false}"
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")


def _parse_list(kind: Any, given: Any, where: str) -> Any:
    if isinstance(given, str):
        inner = given.strip().removeprefix("[").removesuffix("]")
        given = [part.strip() for part in inner.split(",")] if inner else []
    container = get_origin(kind) or kind
    arguments = get_args(kind) or (str,)
    if container is tuple and Ellipsis not in arguments and get_args(kind):
        if len(given) != len(arguments):
            raise ConfigError(f"{where}: takes {len(arguments)} values, got {len(given)}")
        return tuple(parse_value(a, g, where) for a, g in zip(arguments, given, strict=True))
    return container(parse_value(arguments[0], item, where) for item in given)


def _parse_scalar(kind: Any, text: str, where: str) -> Any:
    if get_origin(kind) is Literal:
        return _choose({str(choice): choice for choice in get_args(kind)}, text, where)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _choose({str(member.value): member for member in kind}, text, where)
    if kind is bool:
        return _parse_bool(text, where)
    if kind is int or kind is float:
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{where}: {text!r} is not {_WORDS[kind]}") from None
    if kind is Path:
        if not text:
            raise ConfigError(f"{where}: the path is empty")
        return Path(text).expanduser()
    if kind in (str, Any, object):
        return text
    raise ConfigError(f"{where}: cannot be set from the command line; use the Python interface")


def _parse_bool(text: str, where: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(f"{where}: {text!r} is not true or false")


def _choose(choices: dict[str, Any], text: str, where: str) -> Any:
    if text in choices:
        return choices[text]
    raise ConfigError(
        f"{where}: {text!r} is not one of {', '.join(choices)}{nearest(text, choices)}"
    )


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _members(kind: Any) -> tuple[Any, ...]:
    """The types that a text may be read as, tried in this order; text itself comes last."""
    if not _is_union(kind):
        return (kind,)
    members = [member for member in get_args(kind) if member is not type(None)]
    return tuple(sorted(members, key=lambda member: member is str))


def _without_none(kind: Any) -> Any:
    members = _members(kind)
    return members[0] if _is_union(kind) and len(members) == 1 else kind
