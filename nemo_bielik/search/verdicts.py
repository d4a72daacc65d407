"""What became of each candidate, and the numbers that say so.

Stability, in the words of the report's section 4 ("training instability and gradient spikes during
the initial phases"), is measured on the first rung, after the warm-up:

* gradient spike: a step whose gradient norm, before clipping, is above `gradient_spike` times the
  median of the `window` steps before it. Two or more, and more than `spike_share` of the steps:
  unstable.
* loss spike: a step whose loss is more than `loss_spike` deviations above the median of the
  `window` before it; a deviation is 1.4826 median absolute deviations, as `StabilityConfig` has it,
  and at least a hundredth of the median. As many as above: unstable.
* divergence: a loss or norm that is no number, or a held-out KL above that right after the cut.

Futility: a power law through the losses so far (`curves.py`) says where a candidate will be at the
end of the whole run. If even the favourable end of that interval is above what the leader has
reached already, it cannot win any more.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from nemo_bielik.errors import ConfigError
from nemo_bielik.search.curves import LEAST_POINTS, binned, fit

SELECTED, SUB_OPTIMAL = "selected", "sub-optimal"
UNSTABLE, STOPPED = "unstable", "stopped early"
_DEVIATION = 1.4826
#: Deviation of losses, as a share of their median, below which nothing is called a spike.
_LEAST_DEVIATION = 0.01


@dataclass(kw_only=True)
class StabilityLimits:
    """From where on a trial is called unstable."""

    window: int = field(default=10, metadata={"help": "steps before that a step is judged by"})
    gradient_spike: float = field(
        default=4.0, metadata={"help": "times the median gradient norm that is a spike"}
    )
    loss_spike: float = field(
        default=8.0, metadata={"help": "deviations above the median loss that are a spike"}
    )
    spike_share: float = field(default=0.05, metadata={"help": "largest share of spikes"})

    def __post_init__(self) -> None:
        if self.window < 3:
            raise ConfigError(f"judge.window is {self.window}; it must be at least 3")
        for name in ("gradient_spike", "loss_spike"):
            if not 1 < getattr(self, name) < math.inf:
                raise ConfigError(f"judge.{name} is {getattr(self, name)}; it must be above 1")
        if not 0 <= self.spike_share < 1:
            raise ConfigError(
                f"judge.spike_share is {self.spike_share}; it must be at least 0, below 1"
            )


@dataclass(frozen=True)
class Verdict:
    """A word of the report's, why, and the figures behind it."""

    word: str
    reason: str
    numbers: dict[str, Any]

    def row(self) -> dict[str, Any]:
        """Return plain values, for machines."""
        return asdict(self)


@dataclass(frozen=True)
class Stability:
    """What the first rung showed: shares of steps that were spikes, and the held-out KL."""

    judged_steps: int
    gradient_spikes: int
    largest_gradient: float
    loss_spikes: int
    largest_loss: float
    kl_after_cut: float
    kl: float
    incident: str = ""

    def complaint(self, limits: StabilityLimits) -> str:
        """Return why the trial is unstable, "" if it is not."""
        if self.incident:
            return f"diverged: {self.incident}"
        if not self.kl <= self.kl_after_cut:
            return (
                f"diverged: held-out KL {self.kl:.4g}, {self.kl_after_cut:.4g} right after the cut"
            )
        allowed = limits.spike_share * self.judged_steps
        for count, what, most, unit in (
            (self.gradient_spikes, "gradient", self.largest_gradient, "times the median"),
            (self.loss_spikes, "loss", self.largest_loss, "deviations above the median"),
        ):
            if count > max(allowed, 1):  # a single spike is no pattern
                return (
                    f"{what} spikes in {count} of {self.judged_steps} steps, limit "
                    f"{limits.spike_share:.0%}; the largest {most:.3g} {unit}"
                )
        return ""


def measure_stability(
    losses: Sequence[float],
    grad_norms: Sequence[float],
    kl_after_cut: float,
    kl: float,
    limits: StabilityLimits,
    incident: str = "",
) -> Stability:
    """Measure the statistics above over the steps of a first rung.

    Args:
        losses: of every step after the warm-up; `grad_norms` likewise.
        kl: on held-out text at the rung's end; infinite if it was not reached.
        incident: what the engine itself stopped the run for.
    """
    gradients = [
        norm / max(statistics.median(before), 1e-30)
        for norm, before in _windows(grad_norms, limits.window)
    ]
    jumps = [
        (loss - statistics.median(before)) / _deviation(before)
        for loss, before in _windows(losses, limits.window)
    ]
    return Stability(
        judged_steps=len(gradients),
        gradient_spikes=sum(ratio > limits.gradient_spike for ratio in gradients),
        largest_gradient=max(gradients, default=0.0),
        loss_spikes=sum(jump > limits.loss_spike for jump in jumps),
        largest_loss=max(jumps, default=0.0),
        kl_after_cut=kl_after_cut,
        kl=kl,
        incident=incident,
    )


def _windows(values: Sequence[float], window: int) -> list[tuple[float, Sequence[float]]]:
    return [(values[n], values[n - window : n]) for n in range(window, len(values))]


def _deviation(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    spread = _DEVIATION * statistics.median(abs(value - middle) for value in values)
    return max(spread, _LEAST_DEVIATION * abs(middle), 1e-30)


@dataclass(frozen=True)
class Futility:
    """What a candidate may reach at the end, and what the leader has reached."""

    predicted_low: float
    predicted: float
    predicted_high: float
    leader: str
    leader_reached: float

    @property
    def cannot_win(self) -> bool:
        """Whether even the favourable end of the prediction is above the leader."""
        return self.predicted_low > self.leader_reached

    def reason(self) -> str:
        """Return the prediction in words."""
        return (
            f"cannot win: {self.predicted:.4g} ({self.predicted_low:.4g}–{self.predicted_high:.4g})"
            f" predicted for the end, where {self.leader} has reached {self.leader_reached:.4g}"
        )


def measure_futility(
    points: Sequence[tuple[float, float]],
    end: float,
    leader: str,
    leader_points: Sequence[tuple[float, float]],
) -> Futility | None:
    """Return what a candidate's training losses predict; None where they are too few.

    Args:
        points: (tokens, loss) of every step after the warm-up; `leader_points` likewise.
        end: tokens of the whole run.
    """
    own, theirs = binned(points), binned(leader_points)
    if len(own) < LEAST_POINTS or not theirs:
        return None
    predicted = fit(own).at(end)
    return Futility(predicted.low, predicted.middle, predicted.high, leader, theirs[-1][1])
