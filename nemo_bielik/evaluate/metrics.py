"""Metrics that are recomputed from items, also from items drawn anew.

Every metric here is a function of sums over items: of the items' scores and their number for a
mean, of n-gram counts and lengths for BLEU, of the table of (reference, prediction) for MCC and
macro-F1. An item's share of these sums is its row of `ItemStatistics.values`, [n, k]; a resample
is a sum of rows, so any number of resamples is one matrix product and no text is read twice.

Larger is better in all of them. BLEU is on its scale of 0 to 100, the others as they are defined.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.errors import ConfigError, DataError

Float64 = NDArray[np.float64]
Item = Mapping[str, Any]

_BLEU_ORDERS = 4


@dataclass(frozen=True)
class ItemStatistics:
    """What each item adds to the sums of a metric, `values` [n, k].

    `from_totals` maps sums of rows, [r, k], to scores, [r].
    """

    values: Float64
    from_totals: Callable[[Float64], Float64]

    @property
    def score(self) -> float:
        """The metric over all items, each once."""
        return float(self.from_totals(self.values.sum(axis=0, keepdims=True))[0])

    def take(self, rows: Sequence[int]) -> "ItemStatistics":
        """Return the statistics of some of the items."""
        return ItemStatistics(self.values[list(rows)], self.from_totals)

    def resampled(self, counts: NDArray[Any]) -> Float64:
        """Return the score of every resample; `counts` [r, n] says how often each item is in it."""
        return self.from_totals(counts.astype(np.float64) @ self.values)


@dataclass(frozen=True)
class Metric:
    """A metric by name; `statistics` turns items into `ItemStatistics`."""

    name: str
    statistics: Callable[[Sequence[Item]], ItemStatistics]

    def score(self, items: Sequence[Item]) -> float:
        """Return the metric over `items`; raises `DataError` if one lacks what it needs."""
        return self.statistics(items).score


def mean_of_scores(items: Sequence[Item]) -> ItemStatistics:
    """Mean of the items' ``score``: accuracy, exact match, a judge's points."""
    scores = [_number(item, "score") for item in items]
    return ItemStatistics(np.array([[score, 1.0] for score in scores]).reshape(-1, 2), _ratio)


def corpus_bleu(items: Sequence[Item]) -> ItemStatistics:
    """BLEU of ``prediction`` against ``references``, over the corpus (Post 2018, sacrebleu).

    Tokeniser 13a, exponential smoothing: what ``sacrebleu`` reports without options.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"BLEU needs the package {error.name!r}, which is not installed; "
            "run 'make env' or install nemo-bielik[evaluate]"
        ) from None

    counter = BLEU(effective_order=True)  # silences a warning; counts are the same either way
    rows = []
    for item in items:
        references = item.get("references")
        if not isinstance(references, list | tuple) or not references:
            raise DataError(f"{_named(item)}: BLEU needs a list of references")
        found = counter.sentence_score(_string(item, "prediction"), [str(r) for r in references])
        rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
    values = np.array(rows, dtype=np.float64).reshape(-1, 2 * _BLEU_ORDERS + 2)
    return ItemStatistics(values, partial(_bleu_of_totals, BLEU.compute_bleu))


def matthews(items: Sequence[Item]) -> ItemStatistics:
    """Matthews correlation of ``prediction`` and ``reference`` for any number of classes.

    Gorodkin 2004, as in scikit-learn: 0 where either side has only one class.
    """
    values, classes = _confusion(items)
    return ItemStatistics(values, partial(_matthews_of_totals, classes))


def macro_f1(items: Sequence[Item]) -> ItemStatistics:
    """Mean over classes of F1; the classes are those of a resample's references.

    So an answer that is none of them (an empty one, for example) misses its reference and is no
    class of its own, which a single one would add to the mean with F1 = 0: scikit-learn's
    ``f1_score(labels=<classes of the references>, average="macro")``.
    """
    values, classes = _confusion(items)
    return ItemStatistics(values, partial(_macro_f1_of_totals, classes))


METRICS: dict[str, Metric] = {
    name: Metric(name, statistics)
    for name, statistics in {
        "mean": mean_of_scores,
        "bleu": corpus_bleu,
        "mcc": matthews,
        "macro_f1": macro_f1,
    }.items()
}


def metric_of(name: str) -> Metric:
    """Return the metric called `name`; any that is not in `METRICS` is a mean over ``score``."""
    return METRICS.get(name, METRICS["mean"])


def _ratio(totals: Float64) -> Float64:
    return np.asarray(totals[:, 0] / totals[:, 1])


def _bleu_of_totals(compute: Callable[..., Any], totals: Float64) -> Float64:
    found = []
    for row in totals.round().astype(int).tolist():  # sacrebleu wants whole counts
        right, ngrams = row[:_BLEU_ORDERS], row[_BLEU_ORDERS:-2]
        found.append(compute(right, ngrams, *row[-2:], smooth_method="exp").score)
    return np.array(found)


def _confusion(items: Sequence[Item]) -> tuple[Float64, int]:
    """Return one-hot rows [n, c²] of (reference, prediction), and c, the number of classes."""
    pairs = [(_label(item, "reference"), _label(item, "prediction")) for item in items]
    names = sorted({name for pair in pairs for name in pair})
    classes = {name: place for place, name in enumerate(names)}
    values = np.zeros((len(pairs), len(classes) ** 2))
    for row, (reference, prediction) in enumerate(pairs):
        values[row, classes[reference] * len(classes) + classes[prediction]] = 1.0
    return values, len(classes)


def _matthews_of_totals(classes: int, totals: Float64) -> Float64:
    table = totals.reshape(-1, classes, classes)
    real, said = table.sum(axis=2), table.sum(axis=1)
    right, all_items = np.trace(table, axis1=1, axis2=2), table.sum(axis=(1, 2))
    covariance = right * all_items - (real * said).sum(axis=1)
    spread = (all_items**2 - (said**2).sum(axis=1)) * (all_items**2 - (real**2).sum(axis=1))
    found: Float64 = np.zeros_like(spread)
    np.divide(covariance, np.sqrt(spread), out=found, where=spread > 0)
    return found


def _macro_f1_of_totals(classes: int, totals: Float64) -> Float64:
    table = totals.reshape(-1, classes, classes)
    right = np.diagonal(table, axis1=1, axis2=2)
    real, said = table.sum(axis=2), table.sum(axis=1)
    f1 = np.divide(2 * right, real + said, out=np.zeros_like(right), where=real > 0)
    return np.asarray(f1.sum(axis=1) / (real > 0).sum(axis=1))


def _number(item: Item, key: str) -> float:
    value = item.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"{_named(item)}: its {key} is {value!r}; it must be a finite number")
    return float(value)


def _string(item: Item, key: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise DataError(f"{_named(item)}: its {key} is {value!r}; it must be a string")
    return value


def _label(item: Item, key: str) -> str:
    if item.get(key) is None:
        raise DataError(f"{_named(item)}: has no {key}; this metric needs one")
    return str(item[key])


def _named(item: Item) -> str:
    return f"task {item.get('task')}, item {item.get('item')}"
