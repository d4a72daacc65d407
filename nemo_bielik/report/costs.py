"""What a run cost and how to run it again, from the manifests."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nemo_bielik.commands import COMMANDS
from nemo_bielik.report.gather import KINDS, RunData, StageRun
from nemo_bielik.report.wording import NAMES


@dataclass
class Cost:
    """Stages of one sort together: how often, how long, over how many tokens."""

    label: str
    times: int = 0
    seconds: float = 0.0
    tokens: int = 0


def stage_costs(data: RunData) -> list[Cost]:
    """Return the wall time of each sort of stage; several seeds or splits share a row."""
    rows: dict[str, Cost] = {}
    for stage in data.stages:
        label = _label(stage)
        row = rows.setdefault(label, Cost(label))
        row.times += 1
        row.seconds += stage.manifest.wall_seconds
        if stage.manifest.stage in ("train", "distill"):
            row.tokens += int(stage.manifest.results.get("tokens", 0))
    if rows:
        return list(rows.values())
    told = data.summary.get("stages") or []
    return [Cost(str(row["name"]), 1, float(row["wall_seconds"])) for row in told]


def _label(stage: StageRun) -> str:
    """Return e.g. ``distill: distilled``; the seed is left out."""
    kind = stage.name.split("/")[-1].partition("-seed")[0]
    if kind in KINDS and stage.name.startswith("models/"):
        return f"{stage.manifest.stage}: {NAMES[kind]}"
    return stage.manifest.stage


def versions(data: RunData) -> list[tuple[str, str]]:
    """Return packages with their versions; several versions of one are all named."""
    found: dict[str, list[str]] = {}
    for stage in data.stages:
        for package, version in stage.manifest.versions.items():
            known = found.setdefault(package, [])
            if version not in known:
                known.append(version)
    return [(package, ", ".join(known)) for package, known in found.items()]


def commits(data: RunData) -> list[str]:
    """Return the commits that made the run's artifacts, oldest stage first."""
    named = [stage.manifest.git_commit for stage in data.stages if stage.manifest.git_commit]
    short = (commit.partition("-") for commit in named)
    return list(dict.fromkeys(f"{commit[:12]}{dash}{state}" for commit, dash, state in short))


def seeds(data: RunData) -> list[int]:
    """Return the seeds of the repeated models."""
    return sorted({model.seed for model in data.models if model.seed is not None})


def commands(data: RunData) -> list[str]:
    """Return a command line for each stage that is a command, in the order of the chain."""
    names = {command.name for command in COMMANDS}
    manifests = [stage.manifest for stage in data.stages if stage.manifest.stage in names]
    return [command_line(manifest.stage, manifest.config) for manifest in manifests]


def command_line(stage: str, config: Mapping[str, Any]) -> str:
    """Return the command with every setting that has a value, whatever the defaults become."""
    words = ["bielik", stage]
    overrides = []
    for path, value in _leaves(config):
        if value is None or value in ([], ""):
            continue
        if "." in path:
            overrides.append(f"{path}={_word(value)}")
        elif isinstance(value, bool):
            words.append(("--" if value else "--no-") + path.replace("_", "-"))
        else:
            plain_list = isinstance(value, list) and not isinstance(value[0], dict)
            items = value if plain_list else [value]
            words += ["--" + path.replace("_", "-"), *map(_word, items)]
    return shlex.join([*words, *overrides])


def _leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _word(value: Any) -> str:
    if isinstance(value, list):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
