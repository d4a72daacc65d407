"""Suites that their owners ask and score, read from a file of scores, one an item.

For benchmarks whose questions are not public (CPTUB) and for those of a house of one's own. The
format is ours: a header, then a row an item (docs/suites.md, "Scores from elsewhere").
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from nemo_bielik.data.text import read_records
from nemo_bielik.errors import DataError, nearest
from nemo_bielik.evaluate.suites.catalog import SUITES
from nemo_bielik.evaluate.suites.external import External
from nemo_bielik.paper.parts import cptub_tasks

CPTUB = "cptub"
_HEADER = ("suite", "version", "model", "scale", "limit")
_PARTS = ("category", "language")
_ROW = ("task", "item", "score", *_PARTS)
#: Names under which `bielik evaluate` writes results and items of its own.
_TAKEN = {suite.name for suite in SUITES} - {CPTUB} | {"perplexity", "minimal_pairs", "facts"}

Placed = tuple[str, dict[str, Any]]


def read_scores(path: Path) -> External:
    """Return the suite whose items' scores a file holds; its tasks come in the order of the rows.

    Of CPTUB the suite's own figure counts the report's four columns, where any of them is there.
    Raises `DataError` naming the line for whatever does not fit the format.
    """
    (where, header), rows = _parts(path)
    _check_fields(where, header, _HEADER)
    name, version, model = (_text(where, header, field) for field in _HEADER[:3])
    if name in _TAKEN:
        raise DataError(
            f"{where}: suite is {name!r}, which bielik evaluate has its own way for; call it "
            "otherwise"
        )
    low, high = _scale(where, header)
    limit = _text(where, header, "limit") if header.get("limit") is not None else None
    # two scales are two versions: their scores may not be held against each other
    found = External(name, model, f"{version}, scale {low:g} to {high:g}", limit)
    for task, items in _tasks(rows, (low, high)).items():
        scores = {item: float(row["score"]) for item, row in items.items()}
        parts: dict[str, dict[str, str]] = {
            item: {field: row[field] for field in _PARTS if field in row}
            for item, row in items.items()
        }
        about = {field: _common(field, parts.values()) for field in _PARTS}
        found.add(task, "score", scores, parts, dataset=name, **about)
        found.tasks[task]["baseline"] = low
    if not found.tasks:
        raise DataError(f"{path}: holds no scores; give a row for every item")
    if name == CPTUB:
        found.count_only(cptub_tasks())
    return found


def _parts(path: Path) -> tuple[Placed, Iterable[Placed]]:
    """Return the header and the rows, each with where it stands."""
    if path.suffix != ".json":
        records = list(read_records(path))
        if not records:
            raise DataError(f"{path}: is empty; expected a header and a row for every item")
        return records[0], records[1:]
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected scores as JSON or JSON lines")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from None
    if not isinstance(value, dict) or not isinstance(value.get("scores"), list):
        raise DataError(f'{path}: must be one object with a list "scores"')
    rows = [(f"{path}: row {number}", row) for number, row in enumerate(value.pop("scores"), 1)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where} is {type(row).__name__}; it must be one JSON object")
    return (str(path), value), rows


def _tasks(
    rows: Iterable[Placed], scale: tuple[float, float]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the checked rows by task and item."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    first: dict[tuple[str, str], str] = {}
    for where, row in rows:
        _check_fields(where, row, _ROW)
        task, item = _text(where, row, "task"), _item(where, row)
        if (task, item) in first:
            raise DataError(
                f"{where}: item {item} of task {task} stands there twice, first in "
                f"{first[task, item].rpartition(': ')[2]}"
            )
        first[task, item] = where
        score = row.get("score")
        if not _is_number(score) or not scale[0] <= score <= scale[1]:
            raise DataError(
                f"{where}: score is {score!r}; it must be a number from {scale[0]:g} to "
                f"{scale[1]:g}, the scale that the header gives"
            )
        for field in _PARTS:
            if field in row:
                _text(where, row, field)
        found.setdefault(task, {})[item] = row
    return found


def _check_fields(where: str, record: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in record:
        if name not in known:
            raise DataError(
                f"{where}: {name!r} is not known here{nearest(name, known)}; expected "
                f"{', '.join(known)}"
            )


def _text(where: str, record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name} is {value!r}; it must be text that is not empty")
    return value


def _item(where: str, row: Mapping[str, Any]) -> str:
    """Return an item's name, which may be given as a whole number."""
    value = row.get("item")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(where, row, "item")


def _scale(where: str, header: Mapping[str, Any]) -> tuple[float, float]:
    value = header.get("scale")
    if not isinstance(value, list) or len(value) != 2 or not all(map(_is_number, value)):
        raise DataError(f"{where}: scale is {value!r}; it must be [lowest, highest], as in [0, 5]")
    if not float("-inf") < value[0] < value[1] < float("inf"):
        raise DataError(f"{where}: scale is {value!r}; the lowest score must come first")
    return value[0], value[1]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _common(field: str, parts: Iterable[Mapping[str, str]]) -> str:
    """Return what all items of a task share; "" where they differ."""
    values = {part.get(field, "") for part in parts}
    return values.pop() if len(values) == 1 else ""
