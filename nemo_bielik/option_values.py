"""Text to a value of an annotated type: what `--option value` and ``path=value`` mean."""

import dataclasses
import json
import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
        kind = _without_none(kind)
        record = _record_class(kind)
        return _parse_records(record, given, where) if record else _parse_list(kind, given, where)
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
    if _record_class(kind):
        return "JSON"
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
        given = _json_strings(given) or _separated(given)
    container = get_origin(kind) or kind
    arguments = get_args(kind) or (str,)
    if container is tuple and Ellipsis not in arguments and get_args(kind):
        if len(given) != len(arguments):
            raise ConfigError(f"{where}: takes {len(arguments)} values, got {len(given)}")
        return tuple(parse_value(a, g, where) for a, g in zip(arguments, given, strict=True))
    return container(parse_value(arguments[0], item, where) for item in given)


def _separated(text: str) -> list[str]:
    inner = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inner.split(",")] if inner else []


def _json_strings(text: str) -> list[str]:
    """Return the items of a JSON list of strings, which may hold commas; none if it is no such."""
    try:
        items = json.loads(text)
    except ValueError:
        return []
    is_strings = isinstance(items, list) and all(isinstance(item, str) for item in items)
    return items if is_strings else []


def _record_class(kind: Any) -> type | None:
    """Return the dataclass that `kind` is a list of, if it is one."""
    members = get_args(kind) if get_origin(kind) is list else ()
    found = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
    return found[0] if found else None


def _parse_records(record: type, given: Any, where: str) -> list[Any]:
    """Read a JSON list of objects, the words of a command line joined, as a list of `record`."""
    text = given if isinstance(given, str) else " ".join(given)
    try:
        items = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not JSON ({error})") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError(f'{where}: {text!r} is not a list of objects, such as [{{"name": 1}}]')
    return [_parse_record(record, item, f"{where}[{n}]") for n, item in enumerate(items)]


def _parse_record(record: type, item: dict[str, Any], where: str) -> Any:
    hints = get_type_hints(record)
    for name in item:
        if name not in hints:
            known = ", ".join(hints)
            raise ConfigError(
                f"{where}: unknown setting {name!r}{nearest(name, hints)}; known are {known}"
            )
    for part in dataclasses.fields(record):
        required = part.default is dataclasses.MISSING
        if required and part.default_factory is dataclasses.MISSING and part.name not in item:
            raise ConfigError(f"{where}: {part.name} must be given")
    values = {}
    for name, value in item.items():
        listed = isinstance(value, list) and is_list(hints[name])
        words = [_as_word(v) for v in value] if listed else _as_word(value)
        values[name] = parse_value(hints[name], words, f"{where}.{name}")
    try:
        return record(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _as_word(value: Any) -> str:
    """Return a JSON value as the text that a command line would hold."""
    return value if isinstance(value, str) else json.dumps(value)


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
