"""The scoring stage: a model and calibration tokens in, the statistics of one method out."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices
from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.pruning.methods import STATISTICS, find_method, resolve
from nemo_bielik.pruning.shearing import ShearingConfig, domain_names
from nemo_bielik.stages import describe, is_done
from nemo_bielik.training import Precision

_MODELOPT = "nemo_bielik.pruning.modelopt_mcore:collect"


@dataclass(kw_only=True)
class ScoreConfig:
    """What a pruning method must know of a model, collected on calibration text.

    `bielik score --merge A B` joins what was collected in several runs.
    """

    model: Path = field(metadata={"help": "model directory to score"})
    data: Path = field(metadata={"help": "calibration tokens made by `bielik tokenize`"})
    output: Path = field(metadata={"help": "directory to make"})
    method: str = field(
        default="minitron",
        metadata={"help": "whose statistics to collect; `bielik methods` lists them"},
    )
    engine: Literal["bielik", "modelopt"] = field(
        default="bielik", metadata={"help": "modelopt: Minitron scores by ModelOpt's own hooks"}
    )
    samples: int = field(default=1024, metadata={"help": "calibration sequences"})
    sequence_length: int = field(default=4096, metadata={"help": "tokens a sequence"})
    micro_batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    seed: int = field(default=1, metadata={"help": "which sequences are drawn"})
    precision: Precision = field(
        default="fp32", metadata={"help": "of weights and activations; fp64 for checks"}
    )
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    shearing: ShearingConfig = field(default_factory=ShearingConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("samples", "sequence_length", "micro_batch_size", "seed"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self.parallel.require_whole_sequences("scoring")
        share = self.micro_batch_size * self.parallel.data
        if self.samples % share:
            raise ConfigError(
                f"samples is {self.samples}; it must be a multiple of micro_batch_size × "
                f"parallel.data = {share}"
            )
        method = find_method(self.method)
        if not method.statistics:
            raise ConfigError(
                f"{self.method} needs no scores: it looks at the weights alone; go on with "
                f"`bielik prune --method {self.method}`"
            )
        if self.engine == "modelopt" and method.statistics != "activations":
            raise ConfigError(
                f"engine=modelopt computes Minitron's scores only, not those of {self.method}; "
                "use engine=bielik"
            )


def score(config: ScoreConfig) -> None:
    """Collect the statistics of `config.method` and write `config.output`.

    Raises `ConfigError` for a layout that the model or the text does not fit, `CheckpointError`
    and `DataError` for a damaged model or no tokens.
    """
    checkpoint = Checkpoint.open(config.model)
    check_layout(config.parallel, config.sequence_length, checkpoint)
    inputs = {"model": checkpoint.fingerprint(), "data": _calibration(config, config.data)}
    if find_method(config.method).statistics == "masks":
        domains = domain_names(config.data, config.shearing.domains)[1:]
        for name, path in zip(domains, config.shearing.domains, strict=True):
            inputs[f"domain {name}"] = _calibration(config, path)
    manifest = describe("score", config, inputs, config.seed)
    if is_done(config.output, manifest):
        return
    collector(config)(config, checkpoint, manifest)


def _calibration(config: ScoreConfig, tokens: Path) -> str:
    """Return the fingerprint of calibration text; raise `DataError` if it fills no sequence.

    Shorter text would be repeated within a sequence, and its statistics would mean nothing.
    """
    fingerprint = tokens_fingerprint(tokens)
    have = int(Manifest.load(tokens).results.get("tokens", 0))
    if have <= config.sequence_length:  # one more than the sequence: the last label
        raise DataError(
            f"{tokens}: holds {have:,} tokens, too few for one sequence of "
            f"{config.sequence_length:,}; give more text or a smaller sequence_length"
        )
    return fingerprint


def collector(config: ScoreConfig) -> Any:
    """Return the function that collects what `config` asks for; this loads the engine."""
    if config.engine == "modelopt":
        return resolve(_MODELOPT)
    return resolve(STATISTICS[find_method(config.method).statistics].collect)
