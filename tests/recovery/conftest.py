"""Evaluation directories with known answers, written as `bielik evaluate` writes them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.manifest import Manifest

Item = dict[str, Any]
Tasks = Mapping[str, Mapping[str, Any]]


def right_or_wrong(answers: str, **about: Any) -> list[Item]:
    """Return items from ``"1101"``: one an answer, right (1) or wrong (0)."""
    return [
        {"item": str(number), "metric": "acc", "score": float(answer), **about}
        for number, answer in enumerate(answers)
    ]


def write_evaluation(
    path: Path,
    suites: Mapping[str, Mapping[str, Any]],
    model: str = "models/some",
    fingerprint: str = "f" * 64,
    **results: Any,
) -> Path:
    """Write an evaluation; a suite is ``{"tasks": {name: {"items": […], …}}, "version": …}``.

    A task's score is the mean of its items unless it is given; the rest of an entry stays.
    """
    path.mkdir(parents=True)
    declared: dict[str, Any] = {}
    lines: list[str] = []
    for suite, entry in suites.items():
        tasks = {
            name: _task(suite, name, task, lines) for name, task in entry.get("tasks", {}).items()
        }
        rest = {key: value for key, value in entry.items() if key != "tasks"}
        usual = {"status": "run", "reason": None, "version": "v1", "limit": None}
        declared[suite] = usual | rest | {"tasks": tasks}
    (path / "results.json").write_text(json.dumps({"suites": declared, **results}))
    (path / "items.jsonl").write_text("".join(f"{line}\n" for line in lines))
    Manifest(stage="evaluate", config={"model": model}, inputs={"model": fingerprint}).save(path)
    return path


def _task(suite: str, name: str, task: Mapping[str, Any], lines: list[str]) -> dict[str, Any]:
    items: Sequence[Item] = task["items"]
    lines += [json.dumps({"suite": suite, "task": name, **item}) for item in items]
    usual: dict[str, Any] = {
        "metric": "acc",
        "items": len(items),
        "baseline": 0.0,
        "language": "pl",
    }
    if all("score" in item for item in items):
        usual["score"] = sum(item["score"] for item in items) / len(items)
    return usual | {key: value for key, value in task.items() if key != "items"}


def of_tasks(answers: Mapping[str, str], **entry: Any) -> dict[str, Any]:
    """Return a suite of tasks of right and wrong answers."""
    tasks = {name: {"items": right_or_wrong(given)} for name, given in answers.items()}
    return {"tasks": tasks, **entry}


@pytest.fixture
def evaluation(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes an evaluation called `name`, of suite ``quiz`` by default.

    Its answers are those of one task, ``"1101"``, or of several by name, ``{"easy": "1101"}``.
    """

    def write(name: str, answers: str | Mapping[str, str] | None = None, **kwargs: Any) -> Path:
        entry = {key: kwargs.pop(key) for key in ("version", "limit") if key in kwargs}
        suites = kwargs.pop("suites", None)
        if suites is None:
            several = answers if isinstance(answers, Mapping) else {"task": answers or ""}
            suites = {"quiz": of_tasks(several, **entry)}
        return write_evaluation(tmp_path / name, suites, **kwargs)

    return write
