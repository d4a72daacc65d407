"""The paired bootstrap over items: how far a recovery could lie off by the choice of items.

Items are drawn with replacement, as many as there are, and all models are scored on the same draw,
so that what two models share (a hard item is hard for both) cancels out (Efron & Tibshirani 1993,
chapters 6 and 8; Koehn 2004 for corpus metrics). Tasks that ask the same questions share their
draws too (`recovery/aggregation.py`); others are drawn independently.

A statistic's replicates are one array; means, ratios and differences of statistics are the same
operations on their replicates, whatever tasks they come from. That is why intervals are
percentiles of replicates: BCa would need the influence of every item on every aggregate, and on
recoveries of up to a few hundred items it covers no better (`benchmarks/bootstrap_coverage.py`).

What it does not cover: another prompt, another seed of training, items of a task that depend on
each other.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.metrics import Float64, ItemStatistics
from nemo_bielik.evaluate.recovery import recovery_percent

#: Counts of drawn items held at one time: 32 MB of them.
_COUNTS_AT_ONCE = 2**22
_FEWEST_RESAMPLES = 100


@dataclass(frozen=True)
class Bootstrap:
    """How items are drawn: how often, from which seed, and the share that an interval covers."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 1

    def __post_init__(self) -> None:
        if self.resamples < _FEWEST_RESAMPLES:
            raise ConfigError(
                f"resamples is {self.resamples}; an interval needs at least {_FEWEST_RESAMPLES}"
            )
        if not 0 < self.confidence < 1:
            raise ConfigError(f"confidence is {self.confidence}; it must lie between 0 and 1")

    def draws(self, name: str, items: int) -> Iterator[NDArray[np.int64]]:
        """Yield blocks [r, items] of how often each item is drawn; r adds up to `resamples`.

        `name` and `seed` decide the draws, so what is drawn for a task does not depend on which
        other tasks there are; those of one name share their draws.
        """
        generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        left = self.resamples
        while left:
            rows = min(left, max(1, _COUNTS_AT_ONCE // items))
            places = generator.integers(items, size=(rows, items))
            places += items * np.arange(rows)[:, None]
            counts = np.bincount(places.ravel(), minlength=rows * items)
            yield counts.reshape(rows, items)
            left -= rows

    def estimates(self, name: str, models: Sequence[ItemStatistics]) -> list["Estimate"]:
        """Return the score of each model with its replicates, all on the same draws.

        Row i of every model's statistics is the same item.
        """
        items = {len(model.values) for model in models}
        assert len(items) == 1, f"{name}: models with {sorted(items)} items are not paired"
        blocks = [
            [model.resampled(counts) for model in models]
            for counts in self.draws(name, items.pop())
        ]
        columns = zip(*blocks, strict=True)
        return [
            Estimate(model.score, np.concatenate(column))
            for model, column in zip(models, columns, strict=True)
        ]

    def interval(self, estimate: "Estimate") -> tuple[float, float] | None:
        """Return the percentile interval; None if a replicate is not defined, so it has no end."""
        if not np.isfinite(estimate.replicates).all():
            return None
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(estimate.replicates, [tail, 100 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A figure and what it is in every resample, `replicates` [r]."""

    value: float
    replicates: Float64

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value + other.value, self.replicates + other.replicates)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.replicates - other.replicates)

    @classmethod
    def mean(cls, estimates: Sequence["Estimate"]) -> "Estimate":
        """Return the mean of figures, replicate by replicate."""
        return cls(
            float(np.mean([one.value for one in estimates])),
            np.mean([one.replicates for one in estimates], axis=0),
        )

    def recovery(self, teacher: "Estimate", baseline: float = 0.0) -> "Estimate":
        """Return the recovery in percent; a replicate is nan where its teacher is at the baseline.

        Raises `DataError` if the teacher itself is no better than the baseline.
        """
        ahead = teacher.replicates - baseline
        share = np.full_like(ahead, np.nan)
        np.divide(100 * (self.replicates - baseline), ahead, out=share, where=ahead > 0)
        return Estimate(recovery_percent(self.value, teacher.value, baseline), share)
