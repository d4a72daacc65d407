"""Suites that are run elsewhere: what was written there, as results and items of ours.

The readers are `bfcl` and `euroeval`, whose formats are no API, so each names the version of the
package whose sources it follows; and `scores`, whose format is ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.metrics import metric_of


@dataclass
class External:
    """One suite: its entry for ``results.json`` and its lines for ``items.jsonl``.

    `model` is what the package calls the model; nothing there says which weights it was. `limit`
    says what of the benchmark was not run.
    """

    name: str
    model: str
    version: str = ""
    limit: str | None = None
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    items: list[dict[str, Any]] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """What ``results.json`` says of the suite."""
        return {
            "status": "run",
            "reason": None,
            "version": self.version,
            "model": self.model,
            "limit": self.limit,
            "tasks": self.tasks,
            "not_run": {},
        }

    def add(
        self,
        task: str,
        metric: str,
        scores: Mapping[str, float],
        parts: Mapping[str, dict[str, str]] | None = None,
        **about: str,
    ) -> None:
        """Append a task with its items' scores; `about` has its language, category and dataset.

        `parts` has the language and category of items that have their own.
        """
        named = {"suite": self.name, "task": task, "metric": metric}
        kept = {name: about[name] for name in ("language", "category")}
        items = [
            named | kept | (parts or {}).get(item, {}) | {"item": item, "score": score}
            for item, score in scores.items()
        ]
        self.items.extend(items)
        self.tasks[task] = {
            "metric": metric,
            "score": metric_of(metric).score(items),
            "items": len(items),
            "baseline": 0.0,
            "prompts_cut": False,
            "in_suite": True,
            **about,
        }

    def count_only(self, reported: Iterable[str]) -> None:
        """Let the suite's own figure count the tasks `reported`, if any of them is there.

        The others stay as tasks of their own.
        """
        counted = self.tasks.keys() & set(reported)
        for name, task in self.tasks.items():
            task["in_suite"] = not counted or name in counted


def text(where: str, record: Mapping[str, Any], name: str) -> str:
    """Return a field that must be text; raise `DataError` naming `where` it is not."""
    value = record.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where}: {name} is {value!r}; it must be text")
    return value


def one_model(models: Iterable[str], wanted: str | None, where: Path, suite: str) -> str:
    """Return the model whose results are meant: `wanted`, or the only one that is there."""
    names = sorted(models)
    if not names:
        raise DataError(f"{where}: holds no scores; {suite} writes them: docs/suites.md, {suite}")
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        asked = "name one with external_model" if wanted is None else f"{wanted!r} is none of them"
        raise DataError(f"{where}: holds results of {', '.join(names)}; {asked}")
    return wanted
