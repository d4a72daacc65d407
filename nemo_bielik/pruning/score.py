"""The scoring stage: a model and calibration tokens in, a `ScoreTable` out, in one pass."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.artifacts import SCORES_NAME
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.stages import describe, is_done
from nemo_bielik.training import ParallelConfig, Precision, check_layout, tokens_fingerprint


@dataclass(kw_only=True)
class ScoreConfig:
    """Minitron importance of hidden and ffn channels and heads, and Block Influence of layers."""

    model: Path = field(metadata={"help": "model directory to score"})
    data: Path = field(metadata={"help": "calibration tokens made by `bielik tokenize`"})
    output: Path = field(metadata={"help": f"directory to make; holds {SCORES_NAME}"})
    samples: int = field(default=1024, metadata={"help": "calibration sequences"})
    sequence_length: int = field(default=4096, metadata={"help": "tokens a sequence"})
    micro_batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    seed: int = field(default=1, metadata={"help": "which sequences are drawn"})
    precision: Precision = "fp32"
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        for name in ("samples", "sequence_length", "micro_batch_size", "seed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        share = self.micro_batch_size * self.parallel.data
        if self.samples % share:
            raise ConfigError(
                f"samples is {self.samples}; it must be a multiple of micro_batch_size × "
                f"parallel.data = {share}"
            )


def score(config: ScoreConfig) -> None:
    """Score `config.model` on calibration text and write `config.output`."""
    checkpoint = Checkpoint.open(config.model)
    check_layout(config.parallel, config.sequence_length, checkpoint)
    fingerprint = checkpoint.fingerprint()
    inputs = {"model": fingerprint, "data": tokens_fingerprint(config.data)}
    manifest = describe("score", config, inputs, config.seed)
    if is_done(config.output, manifest):
        return

    from nemo_bielik.pruning.minitron_mcore import run_scoring

    run_scoring(config, checkpoint.arch, fingerprint, manifest)
