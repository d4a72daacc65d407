"""How a model and a batch are split over processes, and whether a model can be split so.

A stage checks its layout when it starts, which may be hours after it was submitted: layouts of
models whose sizes are known are checked before (`nemo_bielik.known_layouts`).
"""

import os
from dataclasses import dataclass, field

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import require
from nemo_bielik.errors import ConfigError


@dataclass(kw_only=True)
class ParallelConfig:
    """How many ways the model and the batch are split; the product is the number of processes."""

    tensor: int = field(default=1, metadata={"help": "tensor-parallel size"})
    pipeline: int = field(default=1, metadata={"help": "pipeline stages (uneven ones are fine)"})
    data: int = field(default=1, metadata={"help": "data-parallel size"})
    context: int = field(default=1, metadata={"help": "ranks that share each sequence's tokens"})
    sequence: bool = field(default=False, metadata={"help": "split the sequence over tensor ranks"})

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "data", "context"):
            require(getattr(self, name) >= 1, f"parallel.{name}", getattr(self, name), "at least 1")
        if self.sequence and self.tensor == 1:
            raise ConfigError(
                "parallel.sequence needs parallel.tensor above 1; set both or neither"
            )

    @property
    def processes(self) -> int:
        """Processes that a run needs, one per GPU (or per core on a laptop)."""
        return self.tensor * self.pipeline * self.data * self.context

    @property
    def sequence_unit(self) -> int:
        """What a sequence's length must be a multiple of: a context rank has two equal pieces."""
        pieces = 2 * self.context if self.context > 1 else 1
        return pieces * (self.tensor if self.sequence else 1)

    def check_length(self, sequence_length: int) -> None:
        """Raise `ConfigError` unless ranks can share sequences so long equally."""
        if sequence_length % self.sequence_unit:
            ways = ["2 × parallel.context"] if self.context > 1 else []
            ways += ["parallel.tensor"] if self.sequence else []
            raise ConfigError(
                f"sequence_length is {sequence_length}; it must be a multiple of "
                f"{' × '.join(ways)} = {self.sequence_unit}, since these ranks share each sequence"
            )

    def require_whole_sequences(self, reader: str, setting: str = "parallel") -> None:
        """Raise `ConfigError` where `reader`, which needs whole sequences, would get parts."""
        if self.context > 1:
            raise ConfigError(
                f"{setting}.context is {self.context}; {reader} needs whole sequences: leave it at "
                "1 (training, fine-tuning, preferences and distillation from a live teacher can "
                "split them)"
            )


def check_sizes(
    parallel: ParallelConfig, sequence_length: int, arch: ModelArch, setting: str = "parallel"
) -> None:
    """Raise `ConfigError` unless `arch` can be split as `parallel`, from `setting`, asks."""
    tensor = parallel.tensor
    for dimension in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size"):
        size = getattr(arch, dimension)
        if size % tensor:
            raise ConfigError(
                f"{arch.name}: {dimension} ({size}) is not divisible by {setting}.tensor ({tensor})"
            )
    if parallel.pipeline > arch.num_layers:
        raise ConfigError(
            f"{arch.name}: {arch.num_layers} layers cannot fill {setting}.pipeline "
            f"({parallel.pipeline}) stages"
        )
    if sequence_length > arch.max_position_embeddings:
        raise ConfigError(
            f"sequence_length is {sequence_length}; {arch.name} knows "
            f"{arch.max_position_embeddings} positions"
        )


def check_layout(
    parallel: ParallelConfig,
    sequence_length: int,
    checkpoint: Checkpoint,
    setting: str = "parallel",
) -> None:
    """As `check_sizes`, of a model that is at hand, on the processes that were started."""
    arch = checkpoint.arch
    check_sizes(parallel, sequence_length, arch, setting)
    window = checkpoint.config.get("sliding_window")
    if window is not None and sequence_length > window:
        raise ConfigError(
            f"sequence_length is {sequence_length}; {arch.name} sees a sliding window of {window} "
            f"tokens, and longer sequences are not supported; choose at most {window}"
        )
    world = int(os.environ.get("WORLD_SIZE", parallel.processes))
    if world != parallel.processes:
        raise ConfigError(
            f"launched with {world} processes, but parallel.tensor × pipeline × data × context = "
            f"{parallel.processes}"
        )
