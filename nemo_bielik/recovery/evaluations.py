"""Evaluation directories as values: whose they are, which suites ran, and every item.

An evaluation directory is what `bielik evaluate` makes: ``results.json`` with ``suites``,
``items.jsonl`` with one line an item, and the manifest. Minimal pairs and facts, which have no
entry under ``suites``, are read as suites too; their version is the hash of their file.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nemo_bielik.data.text import read_records
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.metrics import ItemStatistics, metric_of
from nemo_bielik.evaluate.stage import ITEMS_NAME, RESULTS_NAME
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.report.gather import read_object

RUN, NOT_RUN = "run", "not run"
_KEPT = ("score", "prediction", "references", "reference", "language", "category", "question")
#: Suites that an evaluation has without an entry: its setting, its score and what guessing gives.
_CHOICES: dict[str, tuple[str, float | str]] = {
    "minimal_pairs": ("minimal_pairs_accuracy", 0.5),
    "facts": ("fact_accuracy", "fact_chance"),
}


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """One task as one model did it; `items` maps an item's name to its line of ``items.jsonl``.

    `about` holds what is only shown: dataset, split, few_shot, schema, prompts_cut, and in `drawn`
    what its items are, where they are none. `in_suite` says whether the suite's own figure counts
    it, and `row` with which others: tasks of one row count as one. `version` is that of its
    definition and data, "" where only the suite has one.
    """

    name: str
    metric: str
    score: float
    baseline: float
    language: str
    category: str
    about: Mapping[str, Any] = field(default_factory=dict)
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    expected_items: int | None = None
    in_suite: bool = True
    row: str = ""
    version: str = ""

    @cached_property
    def statistics(self) -> ItemStatistics:
        """What each item adds to the metric, counted once; raises `DataError` for a bad item."""
        return metric_of(self.metric).statistics(list(self.items.values()))

    def question(self, key: str) -> str:
        """Return what tells an item's question apart from the others of its dataset."""
        return str(self.items[key].get("question", key))

    def statistics_of(self, keys: Iterable[str]) -> ItemStatistics:
        """Return the statistics of the items `keys`, in this order."""
        places = {key: place for place, key in enumerate(self.items)}
        return self.statistics.take([places[key] for key in keys])


@dataclass(frozen=True, kw_only=True)
class SuiteRun:
    """One suite as one model did it, or why it was not run; `not_run` has the tasks' reasons.

    `model` is what the suite's own package calls the model, where one ran it.
    """

    name: str
    status: str
    reason: str = ""
    version: str = ""
    model: str = ""
    limit: int | str | None = None
    tasks: dict[str, TaskRun] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation directory."""

    path: Path
    manifest: Manifest
    results: dict[str, Any]
    suites: dict[str, SuiteRun]

    @property
    def model(self) -> str:
        """The model's directory, or its name and address, as `bielik evaluate` was given it."""
        config = self.manifest.config
        if config.get("endpoint"):
            return f"{config.get('endpoint_model')} at {config['endpoint']}"
        return str(config.get("model") or "")

    @property
    def fingerprint(self) -> str:
        """The hash of the model that was evaluated; "" if its server did not give one."""
        return str(self.manifest.inputs.get("model") or "")

    def text_hashes(self) -> list[str]:
        """Return the hashes of the texts that perplexity was measured on, and how they were cut."""
        config = self.manifest.config
        hashes = [str(self.manifest.inputs.get(str(text))) for text in config.get("texts") or []]
        settings = (config.get("sequence_length"), config.get("document_separator"))
        return [*hashes, str(settings), str(self.manifest.inputs.get("tokenizer"))]


def read_evaluation(path: Path) -> Evaluation:
    """Read an evaluation directory; raise `DataError` if it is none or a damaged one."""
    for name in (MANIFEST_NAME, RESULTS_NAME):
        if not (path / name).is_file():
            raise DataError(
                f"{path}: is no evaluation, it lacks {name}; give a directory that "
                "`bielik evaluate` made"
            )
    manifest, results = Manifest.load(path), read_object(path / RESULTS_NAME)
    declared = results.get("suites", {})
    if not isinstance(declared, dict):
        raise DataError(f"{path / RESULTS_NAME}: suites must be one JSON object")
    suites = {name: _suite(path, name, entry) for name, entry in declared.items()}
    suites |= {suite.name: suite for suite in _choices(manifest, results, known=suites)}
    evaluation = Evaluation(path=path, manifest=manifest, results=results, suites=suites)
    _add_items(evaluation)
    return evaluation


def _suite(path: Path, name: str, entry: Any) -> SuiteRun:
    where = f"{path / RESULTS_NAME}: suite {name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("tasks", {}), dict):
        raise DataError(f"{where} must be an object with an object of tasks")
    if not isinstance(entry.get("not_run") or {}, dict):
        raise DataError(f"{where}: not_run must be an object of tasks and reasons")
    return SuiteRun(
        name=name,
        status=str(entry.get("status", RUN)),
        reason=str(entry.get("reason") or ""),
        version=str(entry.get("version") or ""),
        model=str(entry.get("model") or ""),
        limit=entry.get("limit"),
        tasks={
            task: _task(f"{where}, task {task}", task, found)
            for task, found in entry.get("tasks", {}).items()
        },
        not_run=dict(entry.get("not_run") or {}),
    )


def _task(where: str, name: str, entry: Any) -> TaskRun:
    if not isinstance(entry, dict):
        raise DataError(f"{where} must be one JSON object")
    shown = ("dataset", "split", "few_shot", "schema", "prompts_cut", "drawn")
    return TaskRun(
        name=name,
        metric=str(entry.get("metric") or "mean"),
        score=_number(where, entry, "score"),
        baseline=_number(where, entry, "baseline", 0.0),
        language=str(entry.get("language") or ""),
        category=str(entry.get("category") or ""),
        about={key: entry[key] for key in shown if entry.get(key) is not None},
        expected_items=entry.get("items"),
        in_suite=bool(entry.get("in_suite", True)),
        row=str(entry.get("row") or ""),
        version=str(entry.get("version") or ""),
    )


def _number(where: str, entry: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = entry.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: {key} is {value!r}; it must be a finite number")
    return float(value)


def _choices(
    manifest: Manifest, results: Mapping[str, Any], known: Iterable[str]
) -> list[SuiteRun]:
    """Return minimal pairs and facts as suites of one task each."""
    found = []
    for name, (measure, chance) in _CHOICES.items():
        if name in known or measure not in results:
            continue
        baseline = _number(measure, results, chance, 0.0) if isinstance(chance, str) else chance
        task = TaskRun(
            name=name,
            metric="acc",
            score=_number(measure, results, measure),
            baseline=baseline,
            language="",
            category="",
        )
        hashed = str(manifest.inputs.get(str(manifest.config.get(name))) or "")
        found.append(SuiteRun(name=name, status=RUN, version=hashed, tasks={name: task}))
    return found


def _add_items(evaluation: Evaluation) -> None:
    """Give every task its items; those of perplexity and of unknown tasks are passed over."""
    path = evaluation.path / ITEMS_NAME
    if not path.is_file():
        return
    for where, record in read_records(path):
        suite = evaluation.suites.get(str(record.get("suite")))
        if suite is None:
            continue
        name = str(record.get("task") or suite.name)
        if task := suite.tasks.get(name):
            _add_item(where, task, record)


def _add_item(where: str, task: TaskRun, record: Mapping[str, Any]) -> None:
    key = record.get("item")
    if key is None:  # minimal pairs and facts: by their place, and by what they ask
        key = f"{len(task.items)}: {record.get('sentence')}"
    if str(key) in task.items:
        raise DataError(f"{where}: item {key} of task {task.name} stands there twice")
    kept = {name: record[name] for name in _KEPT if name in record}
    kept.setdefault("language", task.language)
    kept.setdefault("category", record.get("group") or task.category)
    task.items[str(key)] = {"task": task.name, "item": str(key), **kept}
