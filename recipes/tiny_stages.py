"""The full-size recipes' stages on a laptop: on what `make demo` leaves in runs/demo.

They start where the demo's own chain does, write beside its models, and take a minute each.
"""

from pathlib import Path

from nemo_bielik.distill.cache_stage import CacheTeacherConfig, cache_for
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.pipeline import PipelineConfig
from nemo_bielik.prepare import PrepareConfig
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import DISTILLED, PRUNED, TEACHER, Run
from nemo_bielik.training import TrainConfig

DEMO = Run(Path("runs/demo"))
RUN = Run(Path("runs/tiny"))


def prepare() -> PrepareConfig:
    """Parts and tokens of the built-in world."""
    return PrepareConfig(output=RUN.root)


def train() -> TrainConfig:
    """The demo's teacher, once more, from the random weights that it started from."""
    return TrainConfig(
        model=DEMO.model(f"{TEACHER}-init"),
        train_data=[DEMO.tokens("train")],
        validation_data=DEMO.tokens("validation"),
        output=RUN.model(TEACHER),
        **tiny.teacher().fields(),
    )


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
        output=RUN.model(DISTILLED),
        **tiny.recovery().fields(),
    )


def cache_teacher() -> CacheTeacherConfig:
    """The demo's teacher for `distill`."""
    return cache_for(distill(), RUN.root / "teacher-cache")


def evaluate() -> EvaluateConfig:
    """Judge the distilled model as the demo does."""
    return EvaluateConfig(
        model=RUN.model(DISTILLED),
        output=RUN.evaluation(DISTILLED),
        texts=[DEMO.text("test")],
        minimal_pairs=DEMO.text("minimal_pairs"),
        facts=DEMO.text("facts"),
        sequence_length=256,
    )


def quantize() -> QuantizeConfig:
    """The report's row of formats of the demo's teacher, measured and scored as the demo does."""
    return QuantizeConfig(
        model=DEMO.model(TEACHER),
        output=RUN.root / "quantized",
        all=True,
        texts=[DEMO.text("calibration")],
        held_out=[DEMO.text("test")],
        minimal_pairs=DEMO.text("minimal_pairs"),  # facts take llama.cpp ten minutes
        sequence_length=128,
        context=256,
    )


def pipeline() -> PipelineConfig:
    """The chain on the built-in world, without the demo's controls."""
    return PipelineConfig(output=Path("runs/tiny-pipeline"))
