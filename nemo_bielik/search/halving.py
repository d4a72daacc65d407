"""Successive halving: who trains how far, and what that costs against training all to the end.

After Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
Optimization" (2016), with η = `factor`: all candidates take a first part of the whole run, the best
1/η of them go on to η times as many steps, and so on; the last `finalists` take all of it.
A rung is a part of the whole run, not a short run: see `trial.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

from nemo_bielik.errors import ConfigError


@dataclass(frozen=True)
class Rung:
    """Steps `first_step` (excluded) to `last_step`, which at most `entrants` candidates take."""

    first_step: int
    last_step: int
    entrants: int

    @property
    def steps(self) -> int:
        """Steps of all entrants together."""
        return (self.last_step - self.first_step) * self.entrants


@dataclass(frozen=True)
class Schedule:
    """The rungs of a search, the last one ending with the whole run."""

    rungs: tuple[Rung, ...]

    @property
    def steps(self) -> int:
        """Steps of the whole search, if nobody is stopped before the end of a rung."""
        return sum(rung.steps for rung in self.rungs)

    @property
    def exhaustive_steps(self) -> int:
        """Steps of training every candidate to the end."""
        return self.rungs[0].entrants * self.rungs[-1].last_step

    @property
    def share(self) -> float:
        """What the search costs of training every candidate to the end."""
        return self.steps / self.exhaustive_steps

    def rows(self) -> list[dict[str, Any]]:
        """Return plain values, for machines."""
        return [{**vars(rung), "steps": rung.steps} for rung in self.rungs]


def entrants(candidates: int, factor: int, finalists: int) -> list[int]:
    """Return how many candidates take each rung: n, ⌈n/η⌉, ⌈n/η²⌉ … to at most `finalists`."""
    counts = [candidates]
    while counts[-1] > finalists:
        counts.append(math.ceil(candidates / factor ** len(counts)))
    return counts


def plan(candidates: int, iters: int, factor: int, finalists: int, multiple: int = 1) -> Schedule:
    """Return the rungs for so many candidates of a run of `iters` steps.

    Args:
        multiple: rungs end at multiples of this, where runs are validated; it divides `iters`.

    Raises `ConfigError` where the steps are too few to tell the rungs apart.
    """
    counts = entrants(candidates, factor, finalists)
    ends = [
        min(iters, multiple * math.ceil(iters / factor**power / multiple))
        for power in range(len(counts) - 1, -1, -1)
    ]
    if sorted(set(ends)) != ends:
        raise ConfigError(
            f"{iters} steps in parts of {multiple} make no {len(counts)} rungs that grow "
            f"{factor}-fold; train longer, validate more often, or allow more finalists"
        )
    starts = [0, *ends[:-1]]
    return Schedule(tuple(map(Rung, starts, ends, counts)))
