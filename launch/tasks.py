"""A stage and its settings as the script that a job runs.

The script calls ``python -m nemo_bielik STAGE setting=value …`` with every setting written out.
NeMo-Run could also carry the settings as a serialised ``run.Partial``; then the cluster would need
NeMo-Run and this very version of the settings' classes to read them, paths would travel as nested
configurations, and the job would bypass the command line's checks, signals and exit statuses. A
command can be read in the dry run, repeated by hand, and checked: it is parsed again here and must
give the same settings.
"""

import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_bielik.commands import find_command, load
from nemo_bielik.config_text import to_plain
from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.local import JOB_VARIABLE
from nemo_bielik.options import parse_config, settings


@dataclasses.dataclass(frozen=True)
class Task:
    """One job of an experiment: a command, its whole configuration, and what it waits for."""

    command: str
    config: Any
    name: str = ""
    after: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The job's name in its experiment."""
        return self.name or self.command.replace(" ", "-")

    @property
    def stage(self) -> str:
        """The stage that it runs: ``distill`` for ``launch preflight distill`` too."""
        first, *rest = self.command.split()
        return find_command(first, rest).stage.split()[0]

    @property
    def ranks(self) -> int:
        """Processes that the stage needs."""
        return int(getattr(getattr(self.config, "parallel", None), "processes", 1))


def command_words(task: Task) -> list[str]:
    """Return the words after ``bielik`` that run `task`: the command and every setting.

    Raises `ConfigError` for settings that no command line can hold.
    """
    name = task.command.split()
    words = list(_assignments(task.config))
    command = find_command(name[0], [*name[1:], *words])
    if parse_config(load(command.config), words, f"bielik {task.command}") != task.config:
        raise ConfigError(
            f"bielik {task.command}: its settings cannot be written as a command line; "
            "give values without commas and not spelled 'none' where text is meant"
        )
    return [*name, *words]


def _assignments(config: Any, prefix: str = "") -> Iterator[str]:
    for setting in settings(type(config)):
        value = getattr(config, setting.name)
        if dataclasses.is_dataclass(value):
            yield from _assignments(value, f"{prefix}{setting.name}.")
        elif value is not None or setting.default is not None:
            yield f"{prefix}{setting.name}={_text(value)}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)) and any(map(dataclasses.is_dataclass, value)):
        return json.dumps([_record(item) for item in value])
    if isinstance(value, (list, tuple)) and any("," in str(item) for item in value):
        return json.dumps([str(item) for item in value])
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    return str(getattr(value, "value", value))


def _record(item: Any) -> dict[str, Any]:
    """Return one record of a list, such as a phase, as JSON holds it; what is None is left out."""
    return {name: value for name, value in to_plain(item).items() if value is not None}


def with_absolute_paths(config: Any, root: Path | None) -> Any:
    """Return `config` with absolute paths: relative ones start at `root`, or are refused.

    Args:
        root: where the job starts, as the job sees it; None if that is not known here.
    """
    changes: dict[str, Any] = {}
    for setting in settings(type(config)):
        value = getattr(config, setting.name)
        if dataclasses.is_dataclass(value):
            changes[setting.name] = with_absolute_paths(value, root)
        elif isinstance(value, Path):
            changes[setting.name] = _absolute(value, setting.name, root)
        elif isinstance(value, list) and any(map(dataclasses.is_dataclass, value)):
            changes[setting.name] = [with_absolute_paths(v, root) for v in value]
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Path) for item in value):
            paths = [_absolute(item, setting.name, root) for item in value]
            changes[setting.name] = type(value)(paths)
    return dataclasses.replace(config, **changes)


def _absolute(path: Path, name: str, root: Path | None) -> Path:
    if path.is_absolute():
        return path
    if root is not None:
        return root / path
    raise ConfigError(
        f"{name} is {str(path)!r}; give an absolute path of the site, or set the site's root"
    )


def script(
    words: Sequence[str], python: str, exports: dict[str, str], starter: Sequence[str] = ()
) -> str:
    """Return the shell script that runs ``bielik *words``.

    Args:
        exports: shell variables and their values, written as they are (``$SLURM_PROCID``).
        starter: what the interpreter runs to start the ranks, written as it is; none: this is one.
    """
    lines = ["set -euo pipefail", f"export {JOB_VARIABLE}=1"]
    lines += [f"export {name}={value}" for name, value in exports.items()]
    first, *others = map(shlex.quote, words)
    arguments = " \\\n  ".join([*starter, f"-m nemo_bielik {first}", *others])
    # exec: a signal of the scheduler then reaches the stage, which saves and stops
    lines.append(f"exec {shlex.quote(python)} {arguments}")
    return "\n".join(lines) + "\n"
