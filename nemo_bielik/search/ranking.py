"""Candidates in order: quality first, beside speed and memory, as sure as seeds make it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nemo_bielik.search.curves import student_quantile

#: Loss of each seed's trial, by candidate, at one moment of the search.
Losses = Mapping[str, Sequence[float]]


def order(losses: Losses) -> list[str]:
    """Return the candidates, lowest mean loss first; of equals the first named."""
    return sorted(losses, key=lambda name: _sortable(statistics.fmean(losses[name])))


def _sortable(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss


@dataclass(frozen=True)
class Lead:
    """By how much the first is ahead of another: mean over seeds, and ± at 95 % if there are two.

    `is_level` says that seeds do not tell the two apart; with one seed nobody knows, so it is None.
    """

    name: str
    mean: float
    margin: float | None

    @property
    def is_level(self) -> bool | None:
        """Whether 0 is within the margin."""
        return None if self.margin is None else self.mean <= self.margin


def leads(losses: Losses) -> list[Lead]:
    """Return the first's lead over each other candidate, paired by seed.

    Trials of one seed read the same text in the same order, so their difference is taken seed by
    seed; its margin is Student's t times the standard error.
    """
    first, *others = order(losses)
    return [_lead(name, losses[first], losses[name]) for name in others]


def _lead(name: str, best: Sequence[float], losses: Sequence[float]) -> Lead:
    differences = [loss - own for loss, own in zip(losses, best, strict=True)]
    mean, count = statistics.fmean(differences), len(differences)
    if count < 2:
        return Lead(name, mean, None)
    # the expansion of the quantile holds from three degrees of freedom on
    quantile = {2: 12.706, 3: 4.303}.get(count) or student_quantile(0.95, count - 1)
    return Lead(name, mean, quantile * statistics.stdev(differences) / math.sqrt(count))


def pareto_front(figures: Mapping[str, Sequence[float]]) -> list[str]:
    """Return those that no other equals or beats in every figure and beats in one; less is better.

    >>> pareto_front({"a": (1, 3), "b": (2, 2), "c": (2, 3), "d": (3, 1)})
    ['a', 'b', 'd']
    """
    return [
        name
        for name, own in figures.items()
        if not any(_dominates(other, own) for other in figures.values())
    ]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def kendall(first: Sequence[str], second: Sequence[str]) -> float:
    """Return Kendall's τ of two orders of which each may hold names that the other lacks.

    1: every two stand in the same order; −1: in the opposite one.
    """
    common = [name for name in first if name in second]
    places = [second.index(name) for name in common]
    pairs = [(a, b) for n, a in enumerate(places) for b in places[n + 1 :]]
    if not pairs:
        return 1.0
    return sum(1 if a < b else -1 for a, b in pairs) / len(pairs)
