"""Whether models can be split as stages ask, found out before anything runs or is submitted.

A model's sizes are known if an earlier stage makes it, its directory is here, it is called like a
preset (``bielik-11b-v3``), or it lies where a recipe makes one (a student that is on the cluster).
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nemo_bielik.arch import PRESETS, ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.initialize import InitializeConfig
from nemo_bielik.parallel import ParallelConfig, check_sizes
from nemo_bielik.pruning.change import checked_target
from nemo_bielik.pruning.prune import PruneConfig

_Models = Mapping[Path, ModelArch]


def check_known_layouts(configs: Iterable[Any]) -> list[str]:
    """Return a line about every model whose sizes nobody knows here.

    Raises `ConfigError` for a layout into which a known model cannot be split, and for a target
    that cannot be cut out of one.

    Args:
        configs: of stages, in the order in which they run.
    """
    made: dict[Path, ModelArch] = {}
    unknown: dict[str, None] = {}
    for config in configs:
        unknown |= dict.fromkeys(_check(config, made))
        made |= _result(config, made)
    return list(unknown)


def _check(config: Any, made: _Models) -> Iterator[str]:
    run = getattr(config, "recovery", config)
    parallel = getattr(run, "parallel", None)
    if not isinstance(parallel, ParallelConfig):
        return
    length: int = getattr(run, "longest_sequence", 0) or getattr(run, "sequence_length", 0)
    layouts = {"model": ("parallel", parallel), "teacher": ("parallel", parallel)}
    if getattr(config, "teacher_layout", parallel) != parallel:
        layouts["teacher"] = ("teacher_parallel", config.teacher_layout)
    for name, (setting, layout) in layouts.items():
        path = getattr(config, name, None)
        if not isinstance(path, Path):
            continue
        if arch := _arch(path, made) or _of_recipes().get(path):
            check_sizes(layout, length, arch, setting)
        else:
            yield f"{name} {path} is not here: its layout is checked when the job starts"


def _result(config: Any, made: _Models) -> dict[Path, ModelArch]:
    """Return the model that a stage makes, if its sizes are known; all but two keep them."""
    model, output = getattr(config, "model", None), getattr(config, "output", None)
    if isinstance(config, InitializeConfig):
        return {config.output: config.resolved_arch()} if config.arch else {}
    if not isinstance(model, Path) or not isinstance(output, Path):
        return {}
    arch = _arch(model, made)
    if arch and isinstance(config, PruneConfig):
        arch = checked_target(config, arch)
    return {output: arch} if arch else {}


def _arch(model: Path, made: _Models) -> ModelArch | None:
    if model not in made and (model / "config.json").is_file():
        return Checkpoint.open(model).arch
    return made.get(model) or PRESETS.get(model.name)


@cache
def _of_recipes() -> dict[Path, ModelArch]:
    from nemo_bielik.recipes.catalog import RECIPES

    made: dict[Path, ModelArch] = {}
    for recipe in RECIPES:
        made |= _result(recipe.factory(), made)
    return made
