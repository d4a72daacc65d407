"""The laptop's numbers: each factory returns one stage's settings, all found by measurement.

docs/demo.md says how they were chosen and what other choices gave.
"""

from nemo_bielik.data.tiny_polish.world import WorldConfig
from nemo_bielik.shape import Shape
from nemo_bielik.training import OptimConfig, ParallelConfig, TrainSettings


def world() -> WorldConfig:
    """2,000 facts about 400 people and enough grammar not to be learned by heart."""
    return WorldConfig(
        people=400,
        train_documents=60_000,
        recovery_documents=12_000,
        fact_share=0.45,
        cloze_items=1_000,
    )


def teacher_shape() -> Shape:
    """Bielik's proportions, about a ten-thousandth of its parameters."""
    return Shape(
        num_layers=8,
        hidden_size=96,
        ffn_hidden_size=320,
        num_attention_heads=6,
        num_query_groups=2,
    )


def target() -> Shape:
    """A cut that hurts: half the layers and half the ffn channels."""
    return Shape(num_layers=4, ffn_hidden_size=160)


def teacher() -> TrainSettings:
    """Train a teacher of about a million parameters from scratch on two cores."""
    return TrainSettings(
        iters=1500,
        sequence_length=64,
        global_batch_size=32,
        micro_batch_size=16,
        eval_interval=300,
        eval_iters=8,
        save_interval=500,
        optim=OptimConfig(max_lr=5e-3, min_lr=5e-4, warmup_iters=50),
        parallel=ParallelConfig(data=2),
    )


def recovery() -> TrainSettings:
    """Bring a pruned model back, by whatever way, within a few hundred thousand tokens."""
    return TrainSettings(
        iters=150,
        sequence_length=64,
        global_batch_size=32,
        micro_batch_size=32,
        eval_interval=25,
        eval_iters=8,
        keep="best",
        optim=OptimConfig(max_lr=2e-3, min_lr=2e-4, warmup_iters=10),
    )


def from_scratch() -> TrainSettings:
    """As `recovery`, with the higher learning rate that random weights want."""
    settings = recovery()
    settings.optim = OptimConfig(max_lr=5e-3, min_lr=5e-4, warmup_iters=10)
    return settings


def label_rates() -> list[float]:
    """Learning rates among which the label-trained control takes its best."""
    return [5e-4, 1e-3, 2e-3]
