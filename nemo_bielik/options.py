"""Command lines derived from configuration dataclasses.

A stage states its settings once, as a ``@dataclass(kw_only=True)`` whose fields carry
``metadata={"help": …}``. From it come ``--field-name`` options for the fields of its own and
trailing overrides such as ``parallel.tensor=2`` for every field, nested ones included. Values
are read by the field's type; a dataclass validates itself when it is built.
"""

import argparse
import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from types import UnionType
from typing import Any, NoReturn, Union, cast, get_args, get_origin, get_type_hints

from nemo_bielik.config_text import to_plain
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.option_values import is_boolean, is_list, metavar, parse_value

_OVERRIDE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*=")


class _Changes(dict[str, Any]):
    """Values for some fields of one dataclass; a nested `_Changes` stands for a nested one."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a configuration class as the command line sees it."""

    name: str
    type: Any
    help: str
    required: bool
    default: Any
    positional: bool = False

    @property
    def option(self) -> str:
        """The field's option, such as ``--learning-rate``."""
        return "--" + self.name.replace("_", "-")

    @property
    def nested(self) -> type | None:
        """The dataclass that this field holds, if it holds one (``X`` or ``X | None``)."""
        members = get_args(self.type) if _is_union(self.type) else (self.type,)
        found = [m for m in members if isinstance(m, type) and dataclasses.is_dataclass(m)]
        return found[0] if found else None


def settings(config_class: type) -> list[Setting]:
    """Return the settings of `config_class` in the order of its fields."""
    hints = get_type_hints(config_class)
    return [
        Setting(
            name=field.name,
            type=hints[field.name],
            help=field.metadata.get("help", ""),
            required=field.default is MISSING and field.default_factory is MISSING,
            default=_default(field),
            positional=field.metadata.get("positional", False),
        )
        for field in dataclasses.fields(config_class)
        if field.init and not field.name.startswith("_")
    ]


def parse_config(config_class: type, argv: Sequence[str], command: str, base: Any = None) -> Any:
    """Build `config_class` from `argv`; `command` (``bielik prune``) heads help and messages.

    `base` is a recipe's value: a `config_class`, or a part of one such as `TrainSettings`, whose
    fields take the place of defaults. Raises `ConfigError` for an unknown, missing or unreadable
    setting. ``--help`` prints the settings and raises `SystemExit`.
    """
    known = settings(config_class)
    if {"-h", "--help"} & set(argv):
        argv = ["--help"]  # whatever stands before it: `bielik plan --cluster --help`
    options, overrides = split_overrides(argv, known)
    for setting in known:  # the one that may come first without its name: `bielik verify OUT`
        if setting.positional and options and not options[0].startswith("-"):
            options.insert(0, setting.option)
    given = _parser(config_class, command).parse(options)
    changes = _Changes()
    for setting in known:
        if setting.name in given:
            changes[setting.name] = parse_value(setting.type, given[setting.name], setting.option)
    for override in overrides:
        _add_override(config_class, changes, override, command)
    for setting in known:
        if setting.required and setting.name not in changes and not hasattr(base, setting.name):
            meaning = f" ({setting.help})" if setting.help else ""
            raise ConfigError(f"{command}: {setting.option} is required{meaning}")
    return _build(config_class, changes, base)


def apply_overrides(config: Any, overrides: Sequence[str], command: str) -> Any:
    """Return a copy of the dataclass `config` changed by ``path=value`` strings."""
    changes = _Changes()
    for override in overrides:
        _add_override(type(config), changes, override, command)
    return _rebuild(config, changes)


def split_overrides(argv: Sequence[str], known: list[Setting]) -> tuple[list[str], list[str]]:
    """Split `argv` into options and ``path=value`` overrides, wherever those stand.

    A word right after an option that takes a value is that option's value, whatever it looks like.
    """
    flags = {"--help", "-h"}
    for setting in known:
        if is_boolean(setting.type):
            flags |= {setting.option, setting.option.replace("--", "--no-", 1)}
    options: list[str] = []
    overrides: list[str] = []
    for before, word in zip(["", *argv], argv, strict=False):
        is_value = before.startswith("--") and "=" not in before and before not in flags
        (overrides if _OVERRIDE.match(word) and not is_value else options).append(word)
    return options, overrides


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are `ConfigError`s with the nearest known name."""

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        namespace, unknown = self.parse_known_args(argv)
        if unknown:
            name = next((word for word in unknown if word.startswith("-")), unknown[0])
            name = name.split("=")[0]
            kind = "option" if name.startswith("-") else "argument"
            hint = nearest(name, self._option_string_actions) if kind == "option" else ""
            self.error(f"unknown {kind} {name!r}{hint}; see '{self.prog} --help'")
        return vars(namespace)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}")


def _parser(config_class: type, command: str) -> _Parser:
    known = settings(config_class)
    parser = _Parser(
        prog=command,
        description=(config_class.__doc__ or "").strip(),
        epilog=_override_help(config_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    for setting in known:
        if setting.nested is None:
            _add_option(parser, setting)
    return parser


def _add_option(parser: _Parser, setting: Setting) -> None:
    text = _help(setting).replace("%", "%%")
    if is_boolean(setting.type):
        parser.add_argument(setting.option, action=argparse.BooleanOptionalAction, help=text)
        return
    parser.add_argument(
        setting.option,
        metavar=metavar(setting.type),
        nargs="+" if is_list(setting.type) else None,
        help=text,
    )


def _help(setting: Setting) -> str:
    if setting.required:
        return f"{setting.help} (required)".strip()
    if setting.default is None or setting.default == () or setting.default == []:
        return setting.help
    shown = to_plain(setting.default)
    shown = " ".join(map(str, shown)) if isinstance(shown, list) else shown
    return f"{setting.help} (default: {shown})".strip()


def _override_help(config_class: type) -> str:
    rows = [row for row in _paths(config_class) if "." in row[0]]
    if not rows:
        return "Settings can also be given as name=value."
    lines = ["Settings can also be given as name=value; further ones are:"]
    for path, setting in rows:
        start = f"  {path}={metavar(setting.type)}"
        lines += textwrap.wrap(
            f"{start:<34} {_help(setting)}", width=100, subsequent_indent=" " * 35
        )
    return "\n".join(lines)


def _paths(config_class: type, base: Any = None, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Yield every leaf with its dotted path; its default is what `base`, its owner, has there."""
    for setting in settings(config_class):
        if base is not None:
            setting = dataclasses.replace(
                setting, required=False, default=getattr(base, setting.name)
            )
        if setting.nested is not None:
            yield from _paths(setting.nested, setting.default, f"{prefix}{setting.name}.")
        else:
            yield prefix + setting.name, setting


def _add_override(config_class: type, changes: _Changes, override: str, command: str) -> None:
    path, _, text = override.partition("=")
    *parents, leaf = path.split(".")
    for parent in parents:
        setting = _lookup(config_class, parent, path, command)
        if setting.nested is None:
            raise ConfigError(f"{command}: {path}: {parent!r} is one value and has no parts")
        config_class = setting.nested
        changes = cast(_Changes, changes.setdefault(parent, _Changes()))
    setting = _lookup(config_class, leaf, path, command)
    if setting.nested is not None and text.lower() not in ("none", "null"):
        part = settings(setting.nested)[0].name
        raise ConfigError(f"{command}: {path} has parts; set one of them, such as {path}.{part}=…")
    changes[leaf] = parse_value(setting.type, text, path)


def _lookup(config_class: type, name: str, path: str, command: str) -> Setting:
    known = {setting.name: setting for setting in settings(config_class)}
    if name in known:
        return known[name]
    where = "" if name == path else f" in {path!r}"
    raise ConfigError(
        f"{command}: unknown setting {name!r}{where}{nearest(name, known)}; "
        f"known are {', '.join(known)}"
    )


def _build(config_class: type, changes: _Changes, base: Any = None) -> Any:
    """Construct `config_class`; a nested change starts from `base`'s value or the default."""
    values: dict[str, Any] = {}
    for setting in settings(config_class):
        value = changes.get(setting.name)
        if isinstance(value, _Changes):
            assert setting.nested is not None
            before = getattr(base, setting.name, setting.default)
            value = _build(setting.nested, value) if before is None else _rebuild(before, value)
        if setting.name in changes:
            values[setting.name] = value
        elif hasattr(base, setting.name):
            values[setting.name] = getattr(base, setting.name)
        elif setting.required:
            raise ConfigError(f"{config_class.__name__}: {setting.name} must be given too")
    return config_class(**values)


def _rebuild(config: Any, changes: _Changes) -> Any:
    """Return a copy of `config` with `changes`, validated once at its construction."""
    values: dict[str, Any] = {}
    for setting in settings(type(config)):
        if setting.name not in changes:
            continue
        value, now = changes[setting.name], getattr(config, setting.name)
        if isinstance(value, _Changes):
            assert setting.nested is not None
            value = _build(setting.nested, value) if now is None else _rebuild(now, value)
        values[setting.name] = value
    return dataclasses.replace(config, **values)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)
