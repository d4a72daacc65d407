"""How fast training goes and how long it will still take, from the seconds of its steps.

A step's seconds run from its start to its end: validations, checkpoints and logging lie between
steps. Rates are medians over recent steps, so that a single slow one does not show.

What counts as work is what a model must compute, not what an implementation does: see
`planner.flops` for its parts. The student's forward and backward pass and the live teacher's
forward pass count; recomputed activations, masked attention and the loss do not. Every sequence
counts as one document of full length, though packed ones see less of it.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_RECENT_STEPS = 20


@dataclass
class Throughput:
    """Rates of the whole run, all processes together.

    Args:
        flops_per_token: model FLOPs of a step by its tokens.
        peak: FLOP/s that all devices together could reach; None if that is not known.
        clock: seconds that only grow.
    """

    flops_per_token: float
    peak: float | None = None
    clock: Callable[[], float] = time.monotonic
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))
    _seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT_STEPS))
    _steps: int = 0
    _paused: float = 0.0
    _began: float = 0.0
    _ended: float | None = None

    def begin(self) -> None:
        """Note the start of a step."""
        self._began = self.clock()
        if self._ended is not None:
            self._paused += self._began - self._ended

    def end(self, tokens: int) -> dict[str, float]:
        """Note the end of a step over `tokens`; return its seconds and the present rates."""
        self._ended = self.clock()
        seconds = self._ended - self._began
        self._steps += 1
        self._seconds.append(seconds)
        self._rates.append(tokens / seconds)
        rate = statistics.median(self._rates)
        figures = {
            "step_seconds": round(seconds, 6),
            "tokens_per_second": rate,
            "flops_per_second": rate * self.flops_per_token,
        }
        if self.peak:
            figures["utilisation"] = figures["flops_per_second"] / self.peak
        return figures

    def seconds_left(self, steps: int) -> float:
        """Return how long `steps` more will take, pauses between them as long as they were."""
        return steps * (statistics.median(self._seconds) + self._paused / self._steps)


def in_words(figures: dict[str, float], seconds_left: float) -> str:
    """Return rates and time left as the progress bar shows them."""
    work = f"{_scaled(figures['flops_per_second'])}FLOP/s"
    if "utilisation" in figures:
        work += f" ({figures['utilisation']:.1%})"
    minutes, seconds = divmod(round(seconds_left), 60)
    left = f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d} left"
    return f"{_scaled(figures['tokens_per_second'])}tokens/s, {work}, {left}"


def _scaled(value: float) -> str:
    """Return 123456 as ``123 k``, ready for its unit."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g} "
