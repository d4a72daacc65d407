"""Which loss distillation minimises; no torch, so that settings are checked before it loads."""

from dataclasses import dataclass, field
from typing import Literal

from nemo_bielik.checks import check_choices
from nemo_bielik.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """α · cross-entropy(labels, p_s) + (1 − α) · T² · divergence(p_t, p_s), both softmaxes at T.

    The report's loss is the default: forward KL and no labels. `losses.py` has the equations.
    """

    divergence: Literal["forward-kl", "reverse-kl", "jensen-shannon"] = field(
        default="forward-kl", metadata={"help": "what teacher and student are compared by"}
    )
    temperature: float = field(default=1.0, metadata={"help": "T of both softmaxes"})
    beta: float = field(
        default=0.5, metadata={"help": "teacher's share of the mixture in jensen-shannon"}
    )
    label_weight: float = field(
        default=0.0, metadata={"help": "weight α of the cross-entropy with the labels, 0 to 1"}
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"temperature is {self.temperature}; it must be above 0")
        if not 0 < self.beta < 1:
            raise ConfigError(f"beta is {self.beta}; it must be between 0 and 1, both excluded")
        if not 0 <= self.label_weight <= 1:
            raise ConfigError(f"label_weight is {self.label_weight}; it must be 0 to 1")
