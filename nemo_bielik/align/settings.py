"""Settings that the stages after distillation share: epochs in place of steps, whole examples."""

import sys
from dataclasses import dataclass, field
from typing import Literal

from nemo_bielik.data.sources import Packing
from nemo_bielik.errors import ConfigError
from nemo_bielik.training import TrainConfig, TrainSettings


@dataclass(kw_only=True)
class AlignSettings(TrainSettings):
    """How to read every example so many times, whole and packed; `AlignConfig` adds which."""

    epochs: int = field(
        default=3, metadata={"help": "how often every example is read; its steps follow from that"}
    )
    iters: int = field(
        default=0, metadata={"help": "optimizer steps in place of epochs; 0: as epochs says"}
    )
    sequence_length: int = field(default=32_768, metadata={"help": "tokens a sequence"})
    packing: Packing = field(
        default="whole", metadata={"help": "whole: no example is cut, several share a sequence"}
    )
    unfit: Literal["stop", "skip"] = field(
        default="stop",
        metadata={"help": "examples that no sequence holds with an answer: stop, or skip them"},
    )

    def __post_init__(self) -> None:
        steps = self.iters
        self.iters = steps or sys.maxsize  # not known yet
        super().__post_init__()
        self.iters = steps
        if self.epochs < (not steps):
            raise ConfigError(f"epochs is {self.epochs}; it must be at least 1, or give iters")
        if self.packing == "cut":
            raise ConfigError("packing=cut would cut examples; leave packing as it is")
        if self.phases:
            raise ConfigError(
                "phases have steps of their own, this stage counts in epochs; run one stage after "
                "the other, or use `bielik train`"
            )


@dataclass(kw_only=True)
class AlignConfig(AlignSettings, TrainConfig):
    """A training on examples that are read so many times, whole and packed."""
