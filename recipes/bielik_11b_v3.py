"""The original at full size: its text, and how it is scored and judged on 2 × 8 H200.

Paths are conventions, relative to where a run starts; override them with your own.
"""

from dataclasses import replace
from pathlib import Path

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.prepare import PrepareConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.runs import TEACHER, Run

#: The model directory as it is downloaded from Hugging Face.
MODEL = Path("models/bielik-11b-v3")
#: One run for all candidates: they share tokens and scores.
RUN = Run(Path("runs/bielik-minitron-7b"))
SEQUENCE_LENGTH = 4096


def prepare() -> PrepareConfig:
    """Parts and tokens of the run's own text."""
    return PrepareConfig(output=RUN.root, model=MODEL, texts=[RUN.root / "corpus.jsonl"])


def score() -> ScoreConfig:
    """Minitron's statistics on 1,024 calibration sequences, one model on each of 16 GPUs."""
    return ScoreConfig(
        model=MODEL,
        data=RUN.tokens("calibration"),
        output=RUN.scores,
        samples=1024,
        sequence_length=SEQUENCE_LENGTH,
        precision="bf16",
        parallel=ParallelConfig(data=16),
    )


def score_1x8() -> ScoreConfig:
    """The same on one node."""
    return replace(score(), parallel=ParallelConfig(data=8))


def evaluate() -> EvaluateConfig:
    """Perplexity of held-out text."""
    return EvaluateConfig(
        model=MODEL,
        output=RUN.evaluation(TEACHER),
        texts=[RUN.text("test")],
        sequence_length=SEQUENCE_LENGTH,
    )
