"""NeMo 2's numbers: what ``nemo llm prune|distill --factory bielik_…`` takes; docs/nemo2.md.

`nemo_bielik.nemo2.factories` turns these values into NeMo's own recipes and registers them. They
are those of `minitron_7b`; only the layouts differ, since NeMo 2 keeps more on every GPU.
"""

from dataclasses import replace

from nemo_bielik.arch import EXPERIMENTS
from nemo_bielik.nemo2.settings import Nemo2Prune
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.training import TrainSettings


def prune_minitron_7b() -> Nemo2Prune:
    """The report's cut, 50 → 40 layers and ffn 14,336 → 11,264, on one GPU (22 GB of weights)."""
    return Nemo2Prune(target="bielik-minitron-7b")


def prune_experiments() -> dict[str, Nemo2Prune]:
    """The report's Table 2 without EXP_007, whose hidden size NeMo's pruning cannot make."""
    return {name: Nemo2Prune(target=name) for name in EXPERIMENTS if name != "exp-007"}


def distill_minitron_7b() -> TrainSettings:
    """The distillation on 2×8 H200, every model on two GPUs."""
    parallel = ParallelConfig(tensor=2, data=8, sequence=True)
    return replace(minitron_7b.recovery(), parallel=parallel)


def distill_minitron_7b_one_node() -> TrainSettings:
    """The same run on 1×8 H200."""
    parallel = ParallelConfig(tensor=2, data=4, sequence=True)
    return replace(minitron_7b.recovery(), parallel=parallel)
