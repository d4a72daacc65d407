"""`bielik suites`: the table of suites and the data they need; and how a run's results print."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.catalog import SUITES, find_suites
from nemo_bielik.evaluate.suites.data import data_folder
from nemo_bielik.evaluate.suites.suite import Suite, Task
from nemo_bielik.planner.table import align


@dataclass(kw_only=True)
class SuitesConfig:
    """The benchmark suites of 'bielik evaluate': what each asks, and the data it needs."""

    suites: list[str] = field(
        default_factory=lambda: ["all"], metadata={"help": "suites to show task by task"}
    )
    data_dir: Path | None = field(
        default=None, metadata={"help": "look whether the datasets are there: DIR/OWNER/NAME"}
    )
    json: bool = field(default=False, metadata={"help": "print JSON"})

    def __post_init__(self) -> None:
        find_suites(self.suites)


def print_suites(config: SuitesConfig) -> None:
    """Print the suites, or the tasks of those that are named."""
    chosen = find_suites(config.suites)
    if config.json:
        described = {suite.name: _described(suite, config.data_dir) for suite in chosen}
        print(json.dumps({"suites": described}, indent=2, ensure_ascii=False))
        return
    for suite in chosen:
        print(f"{suite.name:<16} {suite.help}")
        if suite.instead:
            print(f"{'':<16} {suite.instead}")
        if len(chosen) < len(SUITES) and suite.tasks:
            head = ["task", "language", "split", "shots", "metric", "prompt", "dataset"]
            print(align(head, [_row(task) for task in suite.tasks]))
        for dataset, place in _needs(suite, config.data_dir).items():
            print(f"{'':<16} {dataset}: {place}")


def print_results(suites: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a line a suite: the mean of its tasks' scores, or why it was not run."""
    for name, suite in suites.items():
        of_each = "" if isinstance(suite["limit"], str) else " items a task or part"
        limit = f", LIMIT: {suite['limit']}{of_each}" if suite["limit"] else ""
        tasks = [task for task in suite["tasks"].values() if task.get("in_suite", True)]
        for metric in dict.fromkeys(task["metric"] for task in tasks):
            scores = [task["score"] for task in tasks if task["metric"] == metric]
            mean = sum(scores) / len(scores)
            print(f"{name:<16} {metric} {mean:.4f} over {len(scores)} tasks{limit}")
        if any(task["prompts_cut"] for task in tasks):
            print(f"{'':<16} some prompts were longer than the model's context and were cut")
        if empty := sum(task.get("empty_answers", 0) for task in tasks):
            print(f"{'':<16} {empty} answers were empty and count as wrong")
        if suite["reason"]:
            print(f"{name:<16} {'' if tasks else 'not run: '}{suite['reason']}")


def _described(suite: Suite, data_dir: Path | None) -> dict[str, Any]:
    return {
        "help": suite.help,
        "instead": suite.instead or None,
        "data": _needs(suite, data_dir),
        "tasks": {
            task.name: {
                "dataset": task.dataset,
                "config": task.config,
                "split": task.split,
                "few_shot": task.few_shot,
                "metric": task.metric,
                "prompt": task.definition,
                "language": task.language,
                "category": task.category,
                "baseline": task.baseline,
                "schema": task.schema,
            }
            for task in suite.tasks
        },
    }


def _needs(suite: Suite, data_dir: Path | None) -> dict[str, str]:
    found = {}
    for task in suite.tasks:
        if task.needs_data:
            found[task.dataset] = _place(task, data_dir)
    return found


def _place(task: Task, data_dir: Path | None) -> str:
    if data_dir is None:
        return f"put it in DATA_DIR/{task.dataset}"
    try:
        return f"is in {data_folder(task, data_dir)}"
    except DataError as error:
        return f"missing: {error}"


def _row(task: Task) -> list[str]:
    shown = [task.name, task.language, task.split, str(task.few_shot), task.metric]
    return [*shown, task.definition, task.dataset]
