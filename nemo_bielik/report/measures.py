"""How good each kind of model is, over its seeds, and how much of its teacher it recovers."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.recovery import recovery_percent
from nemo_bielik.report.gather import KINDS, RunData
from nemo_bielik.report.wording import percent
from nemo_bielik.runs import DISTILLED, PRUNED, TEACHER

PERPLEXITY = "perplexity"
GRAMMAR = "minimal_pairs_accuracy"
KNOWLEDGE = "fact_accuracy"
MEASURES = (PERPLEXITY, GRAMMAR, KNOWLEDGE)
RECOVERED = (GRAMMAR, KNOWLEDGE)
BASELINE = "baseline"
_GUESSED_PAIRS = 0.5


@dataclass(frozen=True)
class Spread:
    """One figure over the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return fmean(self.values)

    @property
    def low(self) -> float:
        """The lowest seed."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest seed."""
        return max(self.values)

    @property
    def note(self) -> str:
        """How far the seeds reach, in percent; "" where there is one."""
        if len(self.values) < 2:
            return ""
        return f" ({percent(self.low)} to {percent(self.high)}, {len(self.values)} seeds)"


@dataclass(frozen=True)
class Scores:
    """Figures by kind of model and measure; ``scores.get("distilled", "perplexity")``.

    `recovery` holds 100 · (model − baseline) / (teacher − baseline) by kind, then by measure, then
    under ``"all"`` the mean of the measures.
    """

    by_kind: dict[str, dict[str, Spread]]
    baseline: dict[str, float]
    recovery: dict[str, dict[str, Spread]]

    def get(self, kind: str, measure: str) -> Spread | None:
        """Return a figure, or None if it was not measured."""
        return self.by_kind.get(kind, {}).get(measure)

    def recovered(self, kind: str, measure: str = "all") -> Spread | None:
        """Return the recovery of a kind, or None if it cannot be told."""
        return self.recovery.get(kind, {}).get(measure)

    def gap_closed(self, kind: str = DISTILLED) -> float | None:
        """Return the percentage of the loss that pruning added and `kind` took back."""
        spreads = [self.get(name, PERPLEXITY) for name in (TEACHER, PRUNED, kind)]
        if any(spread is None for spread in spreads):
            return None
        teacher, pruned, back = (math.log(spread.mean) for spread in spreads if spread)
        return 100 * (pruned - back) / (pruned - teacher) if pruned > teacher else None


def read_scores(data: RunData) -> Scores:
    """Collect the figures: measured ones from the evaluations, others from the summary."""
    by_kind = {kind: _figures(data, kind) for kind in KINDS}
    by_kind = {kind: figures for kind, figures in by_kind.items() if figures}
    baseline = _baseline(data)
    recovery = {kind: _recovery(kind, by_kind, baseline) for kind in by_kind}
    return Scores(by_kind, baseline, {kind: found for kind, found in recovery.items() if found})


def group_scores(data: RunData, kind: str, field: str) -> dict[str, Spread]:
    """Return accuracy in percent by group; `field` is ``by_phenomenon`` or ``by_relation``."""
    found: dict[str, list[float]] = {}
    for record in _group_records(data, kind, field):
        for group, result in record.items():
            accuracy = result["accuracy"] if isinstance(result, dict) else result
            found.setdefault(group, []).append(100 * float(accuracy))
    return {group: Spread(tuple(values)) for group, values in found.items()}


def _group_records(data: RunData, kind: str, field: str) -> list[dict[str, Any]]:
    if kind != BASELINE:
        return [model.results.get(field, {}) for model in data.of_kind(kind)]
    told = data.summary.get(BASELINE) or {}
    places = (told, told.get("bigram"), told.get("unigram"))
    return [place[field] for place in places if isinstance(place, dict) and field in place][:1]


def _figures(data: RunData, kind: str) -> dict[str, Spread]:
    told = data.summary.get(kind) or {}
    records: list[dict[str, Any]] = [model.results for model in data.of_kind(kind) if model.results]
    figures = {}
    for measure in MEASURES:
        for source in (records, told.get("seeds") or [], [told]):
            values = tuple(float(record[measure]) for record in source if _holds(record, measure))
            if values:
                figures[measure] = Spread(values)
                break
    return figures


def _baseline(data: RunData) -> dict[str, float]:
    told = data.summary.get(BASELINE) or {}
    found = {measure: float(told[measure]) for measure in MEASURES if _holds(told, measure)}
    for model in data.models:
        if GRAMMAR in model.results:
            found.setdefault(GRAMMAR, _GUESSED_PAIRS)
        if "fact_chance" in model.results:
            found.setdefault(KNOWLEDGE, float(model.results["fact_chance"]))
    return found


def _recovery(
    kind: str, by_kind: dict[str, dict[str, Spread]], baseline: dict[str, float]
) -> dict[str, Spread]:
    teacher, own = by_kind.get(TEACHER, {}), by_kind[kind]
    found = {}
    for measure in RECOVERED:
        if measure in own and measure in teacher and measure in baseline:
            ends = teacher[measure].mean, baseline[measure]
            try:
                values = tuple(recovery_percent(value, *ends) for value in own[measure].values)
            except DataError:  # the teacher is no better than the baseline: nothing to recover
                continue
            found[measure] = Spread(values)
    if len({len(spread.values) for spread in found.values()}) == 1:
        columns = zip(*(spread.values for spread in found.values()), strict=True)
        found["all"] = Spread(tuple(fmean(column) for column in columns))
    return found


def _holds(record: dict[str, Any], measure: str) -> bool:
    value = record.get(measure)
    return isinstance(value, int | float) and math.isfinite(value)
