"""The laptop's numbers: each factory returns one stage's settings, all found by measurement.

docs/demo.md says how they were chosen and what other choices gave.
"""

from nemo_bielik.align.dpo import DpoSettings
from nemo_bielik.align.grpo import GrpoSettings
from nemo_bielik.align.sft import SftSettings
from nemo_bielik.data.tiny_polish.world import WorldConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.shape import Shape
from nemo_bielik.training import OptimConfig, TrainSettings

VOCAB_SIZE = 2048


def world() -> WorldConfig:
    """1,500 facts about 300 people and more grammar than can be learned by heart."""
    return WorldConfig(
        people=300,
        train_documents=36_000,
        recovery_documents=12_000,
        fact_share=0.6,
        cloze_items=1_000,
    )


def teacher_shape() -> Shape:
    """About a million parameters; heads of 16, three to a query group."""
    return Shape(
        num_layers=6,
        hidden_size=96,
        ffn_hidden_size=320,
        num_attention_heads=6,
        num_query_groups=2,
    )


def target() -> Shape:
    """A third fewer parameters, from depth and ffn together as in the report's EXP_010."""
    return Shape(num_layers=5, ffn_hidden_size=192)


def teacher() -> TrainSettings:
    """Train a teacher from scratch on two cores, in small steps: facts need many."""
    return TrainSettings(
        iters=2200,
        sequence_length=64,
        global_batch_size=16,
        micro_batch_size=8,
        eval_interval=550,
        eval_iters=16,
        save_interval=1150,
        optim=OptimConfig(max_lr=8e-3, min_lr=4e-4, warmup_iters=50),
        parallel=ParallelConfig(data=2),
    )


def recovery() -> TrainSettings:
    """Bring a pruned model back, by whatever way, on some 160,000 tokens."""
    return TrainSettings(
        iters=160,
        sequence_length=64,
        global_batch_size=16,
        micro_batch_size=16,
        eval_interval=40,
        eval_iters=8,
        keep="best",
        optim=OptimConfig(max_lr=3e-3, min_lr=3e-4, warmup_iters=10),
    )


def from_scratch() -> TrainSettings:
    """As `recovery`, with the higher learning rate that random weights want."""
    settings = recovery()
    settings.optim = OptimConfig(max_lr=8e-3, min_lr=8e-4, warmup_iters=10)
    return settings


def fine_tuning() -> SftSettings:
    """Three epochs of conversations."""
    return SftSettings(
        unfit="skip",
        sequence_length=256,
        global_batch_size=8,
        micro_batch_size=8,
        optim=OptimConfig(max_lr=1e-3, min_lr=1e-4, weight_decay=0.0),
    )


def preferences() -> DpoSettings:
    """One epoch of pairs, gently: the model knows little that could be forgotten."""
    return DpoSettings(
        unfit="skip",
        epochs=1,
        sequence_length=256,
        global_batch_size=8,
        micro_batch_size=8,
        optim=OptimConfig(max_lr=1e-4, min_lr=1e-5, weight_decay=0.0),
    )


def rewards() -> GrpoSettings:
    """Sixty steps on answers of a few words."""
    return GrpoSettings(
        iters=60,
        max_answer_tokens=12,
        optim=OptimConfig(max_lr=1e-4, min_lr=1e-5, warmup_iters=5, weight_decay=0.0, beta2=0.999),
    )


def label_rates() -> list[float]:
    """Learning rates among which the label-trained control takes its best."""
    return [1e-3, 2e-3]
