"""The report's ten candidates (its Table 2): one scoring, ten cuts, ten distillations."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from nemo_bielik.arch import EXPERIMENTS
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.recipes.bielik_11b_v3 import RUN
from nemo_bielik.runs import DISTILLED, PRUNED


def _prune(name: str) -> PruneConfig:
    return replace(minitron_7b.prune(), target=name, output=RUN.model(f"{PRUNED}-{name}"))


def _distill(name: str) -> DistillConfig:
    model, output = RUN.model(f"{PRUNED}-{name}"), RUN.model(f"{DISTILLED}-{name}")
    return replace(minitron_7b.distill(), model=model, output=output)


def _distill_1x8(name: str) -> DistillConfig:
    # eight whole pairs would leave the widest candidate without the margin of 10 % that we keep
    return replace(_distill(name), parallel=ParallelConfig(pipeline=2, data=4))


#: exp-001 … exp-010 to the factory of each stage.
PRUNE: dict[str, Callable[[], PruneConfig]] = {name: partial(_prune, name) for name in EXPERIMENTS}
DISTILL: dict[str, Callable[[], DistillConfig]] = {
    name: partial(_distill, name) for name in EXPERIMENTS
}
DISTILL_1X8: dict[str, Callable[[], DistillConfig]] = {
    name: partial(_distill_1x8, name) for name in EXPERIMENTS
}
