"""Which tasks of a student can be held against its teacher's, and why the others cannot.

Two scores may be compared only if the suites have one version (the same task definitions, prompts,
metrics and data), the same items were asked, and the score follows from the items that are there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.recovery.evaluations import RUN, Evaluation, SuiteRun, TaskRun
from nemo_bielik.recovery.words import version_text

#: How far a score may lie from what its items give: results are often rounded.
_SAME_SCORE = 1e-3


@dataclass(frozen=True)
class Stage:
    """One column: its label, and one evaluation for each repeat (seed) of it."""

    label: str
    evaluations: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Gap:
    """Something without a figure; `refused` if it was run and cannot be compared."""

    suite: str
    task: str
    model: str
    reason: str
    refused: bool

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)

    def __str__(self) -> str:
        where = f"{self.suite}, task {self.task}" if self.task else self.suite
        return f"{where}, {self.model}: {self.reason}"


@dataclass(frozen=True)
class Pair:
    """One task of the teacher and the same task in every repeat of a student."""

    suite: str
    teacher: TaskRun
    student: tuple[TaskRun, ...]


def pair(
    teacher: Stage, student: Stage, zero_allowed: bool = False
) -> tuple[list[Pair], list[Gap]]:
    """Return the tasks that can be compared, and what cannot be with the reason.

    A teacher that scores nothing leaves nothing to recover; scores themselves may be compared
    (`zero_allowed`).
    """
    pairs: list[Pair] = []
    gaps: list[Gap] = []
    evaluations = (*teacher.evaluations, *student.evaluations)
    for name in dict.fromkeys(name for one in evaluations for name in one.suites):
        for found in _pair_suite(name, teacher, student):
            if isinstance(found, Gap):
                gaps.append(found)
            elif found.teacher.score <= 0 and not zero_allowed:
                gaps.append(_zero(found, teacher.label))
            else:
                pairs.append(found)
    return pairs, gaps


def _pair_suite(name: str, teacher: Stage, student: Stage) -> Iterator[Pair | Gap]:
    suites = [one.suites.get(name) for one in (*teacher.evaluations, *student.evaluations)]
    labels = [teacher.label, *[student.label] * len(student.evaluations)]
    absent = False
    for label, suite in dict(zip(labels, suites, strict=True)).items():
        if suite is None or suite.status != RUN:
            absent = True
            status = suite.status if suite else "not run"
            why = (suite.reason if suite else "") or "this evaluation did not ask for it"
            yield Gap(name, "", label, f"{status}: {why}" if status != "not run" else why, False)
    first, *others = suites
    if absent or first is None:
        return
    for suite in others:
        assert suite is not None
        if reason := _suites_differ(first, suite, teacher.label):
            yield Gap(name, "", student.label, reason, True)
            return
    for label, suite in zip(labels, suites, strict=True):
        assert suite is not None
        for task, why in suite.not_run.items():
            yield Gap(name, task, label, why, False)
        if not suite.tasks:
            yield Gap(name, "", label, "none of its tasks was run", False)
    for task in dict.fromkeys(task for suite in suites if suite for task in suite.tasks):
        found = [suite for suite in suites if suite]
        if not any(task in suite.not_run for suite in found):
            yield _pair_task(name, task, found, (teacher.label, student.label))


def _suites_differ(first: SuiteRun, other: SuiteRun, label: str) -> str:
    if first.version != other.version and not _share_tasks(first, other):
        return (
            f"evaluated with version {version_text(other.version)} of the suite, the {label} with "
            f"{version_text(first.version)}; evaluate both with the same one"
        )
    if first.limit != other.limit:
        return (
            f"evaluated with limit {other.limit}, the {label} with {first.limit}; "
            "evaluate both with the same one"
        )
    return ""


def _share_tasks(first: SuiteRun, other: SuiteRun) -> bool:
    """Whether one task or more is the same in both, though the suites are not.

    A server that does not echo prompts cannot be asked choices: then a suite has fewer tasks.
    """
    return any(
        task.version and task.version == other.tasks[name].version
        for name, task in first.tasks.items()
        if name in other.tasks
    )


def _pair_task(
    suite: str, name: str, suites: Sequence[SuiteRun], labels: tuple[str, str]
) -> Pair | Gap:
    tasks = [one.tasks[name] for one in suites if name in one.tasks]
    if len(tasks) < len(suites):
        reason = f"the {labels[0]} and the {labels[1]} do not both have it"
        return Gap(suite, name, labels[1], reason, True)
    first, *others = tasks
    for task in tasks:
        if reason := _unsound(task):
            return Gap(suite, name, labels[task is not first], reason, True)
    for task in others:
        if reason := _items_differ(first, task, labels):
            return Gap(suite, name, labels[1], reason, True)
    return Pair(suite, first, tuple(others))


def _zero(one: Pair, teacher: str) -> Gap:
    reason = f"scores {one.teacher.score:g}, so there is nothing to recover"
    return Gap(one.suite, one.teacher.name, teacher, reason, True)


def _unsound(task: TaskRun) -> str:
    """Say what is wrong with a task by itself."""
    if not task.items:
        return "items.jsonl holds none of its items; evaluate again"
    if task.expected_items not in (None, len(task.items)):
        return (
            f"items.jsonl holds {len(task.items)} of its {task.expected_items} items; "
            "evaluate again"
        )
    try:
        found = task.statistics.score
    except DataError as error:
        return str(error)
    if not math.isclose(found, task.score, rel_tol=_SAME_SCORE, abs_tol=_SAME_SCORE):
        return f"its {task.metric} is given as {task.score:g}, its items give {found:g}"
    return ""


def _items_differ(first: TaskRun, other: TaskRun, labels: tuple[str, str]) -> str:
    if first.version != other.version:
        return (
            f"evaluated with version {version_text(other.version)} of the task, the {labels[0]} "
            f"with {version_text(first.version)}; evaluate both with the same one"
        )
    if first.metric != other.metric:
        return f"scored by {other.metric}, the {labels[0]} by {first.metric}"
    alone = first.items.keys() ^ other.items.keys()
    if not alone:
        return ""
    example = min(alone)
    whose = labels[example in other.items]
    return (
        f"the items do not match: {len(alone)} of them, such as {example!r}, are alone with the "
        f"{whose}; evaluate both on the same data"
    )
