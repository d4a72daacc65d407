"""Layouts refused before a job is queued, as far as the sizes of its models are known here.

A stage checks its layout when it starts, which may be hours after it was submitted.
"""

from pathlib import Path
from typing import Any

from nemo_bielik.arch import PRESETS, ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.training import ParallelConfig, check_sizes


def check_known_layouts(config: Any) -> list[str]:
    """Return a line about every model whose sizes nobody knows here.

    A model is known if its directory is here or called like a preset (``bielik-11b-v3``). Raises
    `ConfigError` for a layout into which a known model cannot be split.
    """
    run = getattr(config, "recovery", config)
    parallel = getattr(run, "parallel", None)
    if not isinstance(parallel, ParallelConfig):
        return []
    length: int = getattr(run, "longest_sequence", 0) or getattr(run, "sequence_length", 0)
    layouts = {"model": ("parallel", parallel), "teacher": ("parallel", parallel)}
    if getattr(config, "teacher_layout", parallel) != parallel:
        layouts["teacher"] = ("teacher_parallel", config.teacher_layout)
    unknown = []
    for name, (setting, layout) in layouts.items():
        path = getattr(config, name, None)
        if not isinstance(path, Path):
            continue
        if arch := _arch(path):
            check_sizes(layout, length, arch, setting)
        else:
            unknown.append(f"{name} {path} is not here: its layout is checked when the job starts")
    return unknown


def _arch(model: Path) -> ModelArch | None:
    if (model / "config.json").is_file():
        return Checkpoint.open(model).arch
    return PRESETS.get(model.name)
