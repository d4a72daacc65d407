"""Suites that their own package runs: what BFCL and EuroEval wrote, read as suites of ours.

Formats: bfcl-eval 2026.3.23 (``eval_runner_helper.save_eval_results``: a header, then the entries
that failed) and euroeval 18.3.0 (``eee_utils``: one "Every Eval Ever" object a dataset).
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.data.text import read_records
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.metrics import metric_of

BFCL, EUROEVAL = "bfcl", "euroeval"
#: BFCL reports how scores vary with the prompt's format; that is no score of the model's.
_NOT_SCORED = "format_sensitivity"
#: Memory entries are filled by conversations that are in the results and are not scored.
_PREREQUISITE = "_prereq"


@dataclass(frozen=True)
class External:
    """One suite: its entry for ``results.json`` and its lines for ``items.jsonl``."""

    name: str
    version: str
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``results.json`` says of the suite."""
        return {
            "status": "run",
            "reason": None,
            "version": self.version,
            "limit": None,
            "tasks": self.tasks,
            "not_run": {},
        }

    def add(self, task: str, metric: str, scores: Mapping[str, float], **about: str) -> None:
        """Append a task with its items' scores; `about` has its language, category and dataset."""
        named = {"suite": self.name, "task": task, "metric": metric}
        kept = {name: about[name] for name in ("language", "category")}
        items = [named | kept | {"item": item, "score": score} for item, score in scores.items()]
        self.items.extend(items)
        self.tasks[task] = {
            "metric": metric,
            "score": metric_of(metric).score(items),
            "items": len(items),
            "baseline": 0.0,
            "prompts_cut": False,
            **about,
        }


def read_bfcl(project: Path, model: str | None) -> External:
    """Return BFCL's categories as tasks, an item an entry, from `project`, its project root.

    Raises `DataError` for a directory without scores, several models of which none is named, or
    scores that do not fit the results.
    """
    scores = sorted((project / "score").glob("*/**/*_score.json"))
    root = project / "score"
    name = _one_model({path.relative_to(root).parts[0] for path in scores}, model, project, BFCL)
    found = External(BFCL, "")
    versions = set()
    for path in scores:
        place = path.relative_to(root)
        version, category = _version_and_category(path.name)
        if place.parts[0] != name or category == _NOT_SCORED:
            continue
        result = project / "result" / place.with_name(path.name.replace("_score.", "_result."))
        group = " ".join(place.parts[1:-1]).replace("_", " ")
        found.add(
            category, "acc", _bfcl_items(path, result), language="en", category=group, dataset=BFCL
        )
        versions.add(version)
    if len(versions) != 1:
        raise DataError(f"{root}: holds scores of {len(versions)} versions of BFCL, expected one")
    return External(BFCL, versions.pop(), found.tasks, found.items)


def _version_and_category(name: str) -> tuple[str, str]:
    """Split ``BFCL_v4_live_simple_score.json`` into version and category."""
    bfcl, number, category = name.removesuffix("_score.json").split("_", 2)
    return f"{bfcl}_{number}", category


def _bfcl_items(score: Path, result: Path) -> dict[str, float]:
    records = list(read_records(score)) or [(str(score), {})]
    (_, header), *failed = records
    ids = [_text(where, record, "id") for where, record in read_records(result)]
    asked = [entry for entry in ids if _PREREQUISITE not in entry]
    wrong = {_text(where, record, "id") for where, record in failed}
    counted = (header.get("total_count"), header.get("correct_count"))
    if counted != (len(asked), len(asked) - len(wrong)) or not wrong <= set(asked):
        raise DataError(
            f"{score}: counts {counted[1]} of {counted[0]} right, {result} has {len(asked)} "
            f"entries of which {len(wrong)} failed; run `bfcl evaluate` again on all results"
        )
    return {entry: float(entry not in wrong) for entry in asked}


def read_euroeval(path: Path, model: str | None) -> External:
    """Return EuroEval's datasets as tasks by their first metric, an item an iteration.

    EuroEval keeps no items: each iteration is a score on a resampled test set, so intervals say how
    far iterations differ, as its own do. Of a dataset that stands there twice the later counts.
    Raises `DataError` for a file of another format or several models of which none is named.
    """
    records = list(read_records(path))
    models = {_text(where, _part(where, record, "model_info"), "name") for where, record in records}
    name = _one_model(models, model, path, EUROEVAL)
    own = {
        _text(where, _details(where, record), "dataset"): (where, record)
        for where, record in records
        if record["model_info"]["name"] == name
    }
    versions = sorted({_euroeval_version(where, record) for where, record in own.values()})
    found = External(EUROEVAL, "; ".join(versions))
    for dataset, (where, record) in own.items():
        details = _details(where, record)
        metric, scores = _iterations(where, record, details)
        found.add(
            dataset,
            f"mean {metric}",  # over iterations; the metric itself wants items
            scores,
            language=" ".join(_loaded(where, details, "languages")),
            category=str(details.get("task") or ""),
            dataset=dataset,
        )
    return found


def _iterations(
    where: str, record: dict[str, Any], details: dict[str, Any]
) -> tuple[str, dict[str, float]]:
    results = record.get("evaluation_results")
    if not isinstance(results, list) or not results or not isinstance(results[0], dict):
        raise DataError(f"{where}: has no evaluation_results")
    metric = _text(where, results[0], "evaluation_name").removeprefix("test_")
    scores = {}
    for number, raw in enumerate(_loaded(where, details, "raw_results")):
        value = raw.get(metric, raw.get(f"test_{metric}")) if isinstance(raw, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise DataError(f"{where}: iteration {number} has no {metric}")
        scores[f"iteration {number}"] = float(value)
    if not scores:
        raise DataError(f"{where}: has no raw_results; run euroeval again and keep them")
    return metric, scores


def _euroeval_version(where: str, record: dict[str, Any]) -> str:
    details = _details(where, record)
    shots = "few-shot" if details.get("few_shot") == "true" else "zero-shot"
    split = "validation" if details.get("validation_split") == "true" else "test"
    return f"euroeval {_text(where, record['eval_library'], 'version')}, {shots}, {split}"


def _details(where: str, record: dict[str, Any]) -> dict[str, Any]:
    return _part(where, _part(where, record, "eval_library"), "additional_details")


def _part(where: str, record: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = record.get(name)
    if not isinstance(part, dict):
        raise DataError(f"{where}: has no {name}; give what euroeval 18 or later wrote")
    return part


def _text(where: str, record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {value!r}; it must be text")
    return value


def _loaded(where: str, details: dict[str, Any], name: str) -> list[Any]:
    """Return a list that the format keeps as text."""
    try:
        value = json.loads(_text(where, details, name))
    except ValueError:
        value = None
    if not isinstance(value, list):
        raise DataError(f"{where}: {name} is not a list as JSON")
    return value


def _one_model(models: Iterable[str], wanted: str | None, where: Path, suite: str) -> str:
    names = sorted(models)
    if not names:
        raise DataError(f"{where}: holds no scores; {suite} writes them: docs/suites.md, {suite}")
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        asked = "name one with external_model" if wanted is None else f"{wanted!r} is none of them"
        raise DataError(f"{where}: holds results of {', '.join(names)}; {asked}")
    return wanted
