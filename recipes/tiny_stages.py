"""The full-size recipes' stages on a laptop: on what `make demo` leaves in runs/demo.

They start where the demo's own chain does, write beside its models, and take a minute each.
"""

from pathlib import Path

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.evaluate.stage import EvaluateConfig
from nemo_bielik.pipeline import PipelineConfig
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import PRUNED, TEACHER, Run

DEMO = Run(Path("runs/demo"))
RUN = Run(Path("runs/tiny"))


def score() -> ScoreConfig:
    """Minitron's statistics of the demo's teacher."""
    recovery = tiny.recovery()
    return ScoreConfig(
        model=DEMO.model(TEACHER),
        data=DEMO.tokens("calibration"),
        output=RUN.scores,
        samples=256,
        sequence_length=recovery.sequence_length,
        micro_batch_size=recovery.micro_batch_size,
    )


def prune() -> PruneConfig:
    """The demo's cut."""
    return PruneConfig(
        model=DEMO.model(TEACHER),
        scores=RUN.scores,
        output=RUN.model(PRUNED),
        **vars(tiny.target()),
    )


def distill() -> DistillConfig:
    """The demo's distillation, on one process."""
    return DistillConfig(
        model=RUN.model(PRUNED),
        teacher=DEMO.model(TEACHER),
        train_data=[DEMO.tokens("recovery")],
        validation_data=DEMO.tokens("validation"),
        output=RUN.model("distilled"),
        **tiny.recovery().fields(),
    )


def evaluate() -> EvaluateConfig:
    """Judge the distilled model as the demo does."""
    return EvaluateConfig(
        model=RUN.model("distilled"),
        output=RUN.evaluation("distilled"),
        texts=[DEMO.world / "test.jsonl"],
        minimal_pairs=DEMO.world / "minimal_pairs.jsonl",
        facts=DEMO.world / "facts.jsonl",
        sequence_length=256,
    )


def pipeline() -> PipelineConfig:
    """The chain on the built-in world, without the demo's controls."""
    return PipelineConfig(output=Path("runs/tiny-pipeline"))
