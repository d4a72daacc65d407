"""NeMo 2's numbers: what ``nemo llm prune|distill --factory bielik_…`` takes; docs/nemo2.md.

`nemo_bielik.nemo2.factories` turns these values into NeMo's own recipes and registers them.
"""

from nemo_bielik.arch import EXPERIMENTS
from nemo_bielik.nemo2.settings import Nemo2Prune
from nemo_bielik.training import OptimConfig, ParallelConfig, TrainSettings


def prune_minitron_7b() -> Nemo2Prune:
    """The report's cut, 50 → 40 layers and ffn 14,336 → 11,264, on one GPU (22 GB of weights)."""
    return Nemo2Prune(target="bielik-minitron-7b")


def prune_experiments() -> dict[str, Nemo2Prune]:
    """The report's Table 2 without EXP_007, whose hidden size NeMo's pruning cannot make."""
    return {name: Nemo2Prune(target=name) for name in EXPERIMENTS if name != "exp-007"}


def distill_minitron_7b() -> TrainSettings:
    """The report's 8,000 steps of some 1,000 sequences on 2×8 H200; length and rates are ours."""
    return TrainSettings(
        iters=8000,
        sequence_length=4096,
        global_batch_size=1024,
        eval_interval=500,
        precision="bf16",
        optim=OptimConfig(max_lr=1e-4, min_lr=1e-5, warmup_iters=100),
        parallel=ParallelConfig(tensor=2, data=8, sequence=True),
    )


def distill_minitron_7b_one_node() -> TrainSettings:
    """The same run on 1×8 H200."""
    settings = distill_minitron_7b()
    settings.parallel = ParallelConfig(tensor=2, data=4, sequence=True)
    return settings
