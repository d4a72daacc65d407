"""What EuroEval wrote, read as a suite: a metric of a dataset is a task, an iteration an item.

EuroEval keeps no items: each iteration is a score on a resampled test set, so intervals say how far
iterations differ, as its own do. Format: euroeval 18.3.0, ``eee_utils``: one "Every Eval Ever"
object a dataset.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_bielik.data.text import read_records
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.external import External, one_model, text
from nemo_bielik.paper.parts import euroeval_rows

EUROEVAL = "euroeval"

#: What ``Benchmarker`` runs unless it is told otherwise.
_ITERATIONS = 10


def read_euroeval(path: Path, model: str | None) -> External:
    """Return every metric of EuroEval's datasets as a task, called ``DATASET, METRIC``.

    The suite's own figure counts the rows that the report has (a metric of a category), where any
    of them is there. Of a dataset that stands in the file twice the later counts. Raises
    `DataError` for a file of another format or several models of which none is named.
    """
    records = list(read_records(path))
    models = {text(where, _part(where, record, "model_info"), "name") for where, record in records}
    name = one_model(models, model, path, EUROEVAL)
    own = {
        text(where, _details(where, record), "dataset"): (where, record)
        for where, record in records
        if record["model_info"]["name"] == name
    }
    versions = sorted({_version(where, record) for where, record in own.values()})
    found = External(EUROEVAL, name, "; ".join(versions))
    reported = []
    for dataset, (where, record) in own.items():
        details = _details(where, record)
        kind = str(details.get("task") or "")
        language = " ".join(_loaded(where, details, "languages"))
        for metric, scores in _iterations(where, record, details).items():
            task, row = f"{dataset}, {metric}", euroeval_rows().get((kind, metric), "")
            found.add(
                task,
                f"mean {metric}",  # over iterations; the metric itself wants items
                scores,
                language=language,
                category=kind,
                dataset=dataset,
                drawn="iterations",
                row=row,
            )
            if row:
                reported.append(task)
    found.count_only(reported)
    found.limit = _limit(found)
    return found


def _limit(found: External) -> str | None:
    """Say which datasets had fewer iterations than EuroEval's own number."""
    fewest = {
        task["dataset"]: task["items"]
        for task in found.tasks.values()
        if task["items"] < _ITERATIONS
    }
    parts = [f"{number} of {_ITERATIONS} iterations of {name}" for name, number in fewest.items()]
    return "; ".join(parts) or None


def _iterations(
    where: str, record: dict[str, Any], details: dict[str, Any]
) -> dict[str, dict[str, float]]:
    """Return the scores of every metric by iteration; those that EuroEval passes over are not."""
    results = record.get("evaluation_results")
    if not isinstance(results, list) or not results:
        raise DataError(f"{where}: has no evaluation_results")
    raw = _loaded(where, details, "raw_results")
    if not raw:
        raise DataError(f"{where}: has no raw_results; run euroeval again and keep them")
    found = {}
    for result in results:
        one = result if isinstance(result, dict) else {}
        metric = text(where, one, "evaluation_name").removeprefix("test_")
        found[metric] = {
            f"iteration {number}": value
            for number, scores in enumerate(raw)
            if (value := _score(scores, metric)) is not None
        }
        if not found[metric]:
            raise DataError(f"{where}: no iteration has a score of {metric}")
    return found


def _score(scores: Any, metric: str) -> float | None:
    value = scores.get(metric, scores.get(f"test_{metric}")) if isinstance(scores, dict) else None
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _version(where: str, record: dict[str, Any]) -> str:
    details = _details(where, record)
    shots = "few-shot" if details.get("few_shot") == "true" else "zero-shot"
    split = "validation" if details.get("validation_split") == "true" else "test"
    return f"euroeval {text(where, record['eval_library'], 'version')}, {shots}, {split}"


def _details(where: str, record: dict[str, Any]) -> dict[str, Any]:
    return _part(where, _part(where, record, "eval_library"), "additional_details")


def _part(where: str, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    if not isinstance(part, dict):
        raise DataError(f"{where}: has no {name}; give what euroeval 18 or later wrote")
    return part


def _loaded(where: str, details: dict[str, Any], name: str) -> list[Any]:
    """Return a list that the format keeps as text."""
    try:
        value = json.loads(text(where, details, name))
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise DataError(f"{where}: {name} is not a list as JSON")
    return value
