"""Where the KL to the teacher is: classes of tokens at the first and the last validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from nemo_bielik.report import wording
from nemo_bielik.report.figures import Figure
from nemo_bielik.report.gather import ModelRun, RunData
from nemo_bielik.runs import DISTILLED

_ALL = "all"


@dataclass(frozen=True)
class ClassTable:
    """Rows of (cells, percent of the KL that is left there, for a bar) and what they are over."""

    rows: list[tuple[list[Figure], float]]
    first_step: int
    last_step: int
    seeds: int


def class_table(data: RunData) -> ClassTable | None:
    """Return the table of the distilled models, their mean; None if they were not split."""
    runs = [lines for model in data.of_kind(DISTILLED) if (lines := _split_validations(model))]
    if not runs:
        return None
    first, last = [run[0] for run in runs], [run[-1] for run in runs]
    names = dict.fromkeys(name for line in (*last, *first) for name in line["classes"])
    rows = [_row(name, first, last) for name in names]
    return ClassTable(rows, first[0]["step"], last[0]["step"], len(runs))


def _split_validations(model: ModelRun) -> list[dict[str, Any]]:
    return [line for line in model.metrics if line.get("classes", {}).get(_ALL)]


def _row(
    name: str, first: Sequence[dict[str, Any]], last: Sequence[dict[str, Any]]
) -> tuple[list[Figure], float]:
    before, after, agreement = (
        _mean(lines, name, figure)
        for lines, figure in ((first, "kl"), (last, "kl"), (last, "agreement"))
    )
    left = 100 * fmean(_part(line, name) for line in last)
    cells = [
        Figure(f"class.{name}", name.replace("entropy", "teacher’s entropy")),
        Figure(f"class.{name}.share", _percent(fmean(_of(line, name)["share"] for line in last))),
        Figure(f"class.{name}.first_kl", _nats(before)),
        Figure(f"class.{name}.last_kl", _nats(after)),
        Figure(f"class.{name}.agreement", _percent(agreement)),
        Figure(f"class.{name}.left", wording.percent(left)),
    ]
    return cells, round(left, 1)


def _of(line: dict[str, Any], name: str) -> dict[str, float]:
    """Return the figures of a class; without tokens it has a share of nothing."""
    found: dict[str, float] = line["classes"].get(name, {"share": 0.0, "kl": 0.0})
    return found


def _part(line: dict[str, Any], name: str) -> float:
    """Return which part of a validation's KL lies in a class."""
    whole, own = _of(line, _ALL)["kl"], _of(line, name)
    return own["share"] * own["kl"] / whole if whole else 0.0


def _mean(lines: Sequence[dict[str, Any]], name: str, figure: str) -> float | None:
    """Return the mean over the runs in which the class has tokens."""
    values = [line["classes"][name][figure] for line in lines if name in line["classes"]]
    return fmean(values) if values else None


def _percent(value: float | None) -> str:
    return wording.NONE if value is None else wording.percent(100 * value)


def _nats(value: float | None) -> str:
    return wording.NONE if value is None else wording.number(value, 4)
