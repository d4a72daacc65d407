"""The one table of recipes: a stage and a name to a function without arguments.

A recipe returns the settings of one stage; `bielik STAGE --factory NAME` starts from it, and
``name=value`` changes what differs.
"""

import json as json_format
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.arch import EXPERIMENTS
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.planner.table import align
from nemo_bielik.recipes import (
    alignment,
    bielik_11b_v3,
    candidates,
    minitron_7b,
    search,
    tiny_stages,
)

_GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Recipe:
    """One row: the name and stage it is chosen by, and what makes its settings."""

    name: str
    stage: str
    factory: Callable[[], Any]
    on_gpus: bool = True

    def row(self) -> dict[str, Any]:
        """Return what it works on and its layout; `gpus_per_node` is 0 where cores serve."""
        config = self.factory()
        parallel = _parallel(config)
        nodes = -(-parallel.processes // _GPUS_PER_NODE)
        return {
            "name": self.name,
            "stage": self.stage,
            "model": _model(config),
            "nodes": nodes,
            "gpus_per_node": parallel.processes // nodes if self.on_gpus else 0,
            "tensor": parallel.tensor,
            "pipeline": parallel.pipeline,
            "context": parallel.context,
            "data": parallel.data,
            "sequence": parallel.sequence,
        }


def _candidates() -> list[Recipe]:
    rows = []
    for name in EXPERIMENTS:
        recipe = name.replace("-", "_")
        rows += [
            Recipe(recipe, "prune", candidates.PRUNE[name], on_gpus=False),
            Recipe(recipe, "distill", candidates.DISTILL[name]),
            Recipe(f"{recipe}_1x8", "distill", candidates.DISTILL_1X8[name]),
        ]
    return rows


RECIPES: tuple[Recipe, ...] = (
    Recipe("tiny", "prepare", tiny_stages.prepare, on_gpus=False),
    Recipe("tiny", "train", tiny_stages.train, on_gpus=False),
    Recipe("tiny", "score", tiny_stages.score, on_gpus=False),
    Recipe("tiny", "prune", tiny_stages.prune, on_gpus=False),
    Recipe("tiny", "cache-teacher", tiny_stages.cache_teacher, on_gpus=False),
    Recipe("tiny", "distill", tiny_stages.distill, on_gpus=False),
    Recipe("tiny", "evaluate", tiny_stages.evaluate, on_gpus=False),
    Recipe("tiny", "quantize", tiny_stages.quantize, on_gpus=False),
    Recipe("tiny", "pipeline", tiny_stages.pipeline, on_gpus=False),
    Recipe("tiny", "search", search.on_the_demo, on_gpus=False),
    Recipe("bielik_11b_v3", "prepare", bielik_11b_v3.prepare, on_gpus=False),
    Recipe("bielik_11b_v3", "score", bielik_11b_v3.score),
    Recipe("bielik_11b_v3_1x8", "score", bielik_11b_v3.score_1x8),
    Recipe("bielik_11b_v3", "evaluate", bielik_11b_v3.evaluate),
    Recipe("bielik_11b_v3", "search", search.paper),
    Recipe("minitron_7b", "prune", minitron_7b.prune, on_gpus=False),
    Recipe("minitron_7b", "cache-teacher", minitron_7b.cache_teacher),
    Recipe("minitron_7b", "distill", minitron_7b.distill),
    Recipe("minitron_7b_1x8", "distill", minitron_7b.distill_1x8),
    Recipe("minitron_7b_tp2", "distill", minitron_7b.distill_tp2),
    Recipe("minitron_7b_tp2_pp4", "distill", minitron_7b.distill_tp2_pp4),
    Recipe("minitron_7b_tp2_pp4_1x8", "distill", minitron_7b.distill_tp2_pp4_1x8),
    Recipe("minitron_7b_32k", "distill", minitron_7b.distill_32k),
    Recipe("minitron_7b_32k_cp8", "distill", minitron_7b.distill_32k_cp8),
    Recipe("minitron_7b_32k_tp2_cp4", "distill", minitron_7b.distill_32k_tp2_cp4),
    Recipe("minitron_7b_32k_tp2_cp4_1x8", "distill", minitron_7b.distill_32k_tp2_cp4_1x8),
    Recipe("minitron_7b", "grpo", minitron_7b.grpo),
    Recipe("minitron_7b", "evaluate", minitron_7b.evaluate),
    Recipe("minitron_7b", "quantize", minitron_7b.quantize, on_gpus=False),
    Recipe("minitron_7b", "pipeline", minitron_7b.pipeline),
    Recipe("minitron_7b_1x8", "pipeline", minitron_7b.pipeline_1x8),
    Recipe("minitron_7b_assistant", "pipeline", minitron_7b.pipeline_assistant),
    Recipe("tiny", "sft", alignment.tiny_sft, on_gpus=False),
    Recipe("tiny", "reference", alignment.tiny_reference, on_gpus=False),
    Recipe("tiny", "dpo", alignment.tiny_dpo, on_gpus=False),
    Recipe("minitron_7b", "sft", alignment.sft),
    Recipe("minitron_7b_1x8", "sft", alignment.sft_1x8),
    Recipe("minitron_7b_cp4", "sft", alignment.sft_cp4),
    Recipe("minitron_7b_cp4_1x8", "sft", alignment.sft_cp4_1x8),
    Recipe("minitron_7b", "reference", alignment.reference),
    Recipe("minitron_7b", "dpo", alignment.dpo),
    Recipe("minitron_7b_1x8", "dpo", alignment.dpo_1x8),
    *_candidates(),
)


def find_recipe(stage: str, name: str) -> Callable[[], Any]:
    """Return the factory called `name` of a stage; raise `ConfigError` with the nearest name."""
    known = {recipe.name: recipe.factory for recipe in RECIPES if recipe.stage == stage}
    if name not in known:
        stages = sorted({recipe.stage for recipe in RECIPES if recipe.name == name})
        elsewhere = f" (it is a recipe of {', '.join(stages)})" if stages else ""
        raise ConfigError(
            f"no recipe {name!r} of {stage}{nearest(name, known)}{elsewhere}; "
            "`bielik recipes` lists them"
        )
    return known[name]


@dataclass(kw_only=True)
class RecipesConfig:
    """List the recipes: settings of one stage, to start from by ``bielik STAGE --factory NAME``."""

    stage: str | None = field(default=None, metadata={"help": "list those of one stage only"})
    json: bool = field(default=False, metadata={"help": "print a JSON list instead"})

    def __post_init__(self) -> None:
        stages = sorted({recipe.stage for recipe in RECIPES})
        if self.stage is not None and self.stage not in stages:
            raise ConfigError(
                f"stage is {self.stage!r}{nearest(self.stage, stages)}; recipes exist for "
                f"{', '.join(stages)}"
            )


def print_recipes(config: RecipesConfig) -> None:
    """Print the table that `config` asks for."""
    rows = [recipe.row() for recipe in RECIPES if config.stage in (None, recipe.stage)]
    if config.json:
        print(json_format.dumps(rows, indent=2))
        return
    head = ["recipe", "stage", "model", "nodes", "GPUs a node", "TP", "PP", "CP", "DP", "SP"]
    cells = [[str(value) for value in row.values()] for row in rows]
    for row in cells:
        row[-1] = {"True": "yes", "False": "no"}[row[-1]]
    print(align(head, cells))


def _model(config: Any) -> str:
    """Return the name of the model directory that a stage starts from."""
    given = [getattr(config, name, None) for name in ("model", "teacher")]
    return next((path.name for path in given if isinstance(path, Path)), "none")


def _parallel(config: Any) -> ParallelConfig:
    """Return the layout of a stage's settings; a pipeline's is that of its recovery."""
    held = getattr(config, "recovery", config)
    parallel: ParallelConfig = getattr(held, "parallel", ParallelConfig())
    return parallel
