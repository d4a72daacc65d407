"""Recoveries as rows: by task, category, language, suite, and over all suites.

Aggregated as the report does it: a suite's recovery is the ratio of the mean scores of its tasks
(as from an average column of the report's tables), or the mean of the tasks' ratios (EuroEval);
that of all suites is the mean of theirs. A category or language is treated as a suite of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.progress import progress
from nemo_bielik.recovery.pairing import Pair

TASK, CATEGORY, LANGUAGE, SUITE, OVERALL = "task", "category", "language", "suite", "overall"
RATIO_OF_MEANS, MEAN_OF_RATIOS = "ratio of means", "mean of ratios"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How recoveries are made: the bootstrap, the aggregation, and measured baselines.

    `baselines` maps (suite, task) to what a baseline model scores there; others are guessing.
    """

    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    mean_of_ratios: Sequence[str] = ("euroeval",)
    baselines: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def aggregation(self, suite: str) -> str:
        """Return how the tasks of a suite are put together."""
        return MEAN_OF_RATIOS if suite in self.mean_of_ratios else RATIO_OF_MEANS


@dataclass(frozen=True)
class Cell:
    """A task, or those of its items that share a category or language, of teacher and student."""

    task: str
    metric: str
    items: int
    baseline: float | None
    teacher: Estimate
    student: Estimate


@dataclass(frozen=True)
class Recovery:
    """A recovery, plain and above the baseline; None where there is none, and `note` says why."""

    plain: Estimate | None
    above: Estimate | None
    note: str = ""

    @classmethod
    def of(cls, teacher: Estimate, student: Estimate, baseline: float | None) -> "Recovery":
        """Return the recovery of one score."""
        found: list[Estimate | None] = []
        notes = []
        for floor in (0.0, baseline):
            try:
                found.append(None if floor is None else student.recovery(teacher, floor))
            except DataError:
                found.append(None)
                where = "zero" if floor == 0 else f"the baseline of {floor:g}"
                notes.append(f"the teacher is no better than {where} here")
        plain, above = found
        return cls(plain, above, "; ".join(dict.fromkeys(notes)))

    @classmethod
    def mean(cls, parts: Sequence["Recovery"]) -> "Recovery":
        """Return the mean of recoveries; what one of them lacks, their mean lacks."""
        plain = [one.plain for one in parts if one.plain]
        above = [one.above for one in parts if one.above]
        return cls(
            Estimate.mean(plain) if len(plain) == len(parts) else None,
            Estimate.mean(above) if len(above) == len(parts) else None,
            "; ".join(dict.fromkeys(one.note for one in parts if one.note)),
        )


@dataclass(frozen=True)
class Group:
    """Cells that make one figure: a task's, a suite's, those of a language in a suite."""

    level: str
    suite: str
    name: str
    cells: list[Cell]

    def recovery(self, aggregation: str) -> Recovery:
        """Return the recovery of the cells together."""
        if aggregation == MEAN_OF_RATIOS:
            return Recovery.mean(
                [Recovery.of(cell.teacher, cell.student, cell.baseline) for cell in self.cells]
            )
        floors = [cell.baseline for cell in self.cells if cell.baseline is not None]
        baseline = sum(floors) / len(floors) if len(floors) == len(self.cells) else None
        return Recovery.of(self.score("teacher"), self.score("student"), baseline)

    def score(self, whose: str) -> Estimate:
        """Return the mean score of the cells; `whose` is ``teacher`` or ``student``."""
        return Estimate.mean([getattr(cell, whose) for cell in self.cells])


@dataclass(frozen=True)
class Recoveries:
    """All recoveries of one student: by (level, suite, name), with the group each comes from."""

    label: str
    groups: dict[tuple[str, str, str], Group]
    found: dict[tuple[str, str, str], Recovery]

    @property
    def suites(self) -> list[str]:
        """The suites that could be compared."""
        return [key[2] for key in self.groups if key[0] == SUITE]


def recoveries(pairs: Sequence[Pair], label: str, rules: Rules) -> Recoveries:
    """Return every recovery of a student of whom `pairs` can be compared."""
    groups = {(one.level, one.suite, one.name): one for one in groups_of(pairs, rules)}
    found = {key: group.recovery(rules.aggregation(group.suite)) for key, group in groups.items()}
    for level in (LANGUAGE, CATEGORY):
        for name in dict.fromkeys(key[2] for key in groups if key[0] == level):
            parts = [value for key, value in found.items() if key[0] == level and key[2] == name]
            if len(parts) > 1:
                found[level, "", name] = Recovery.mean(parts)
    suites = [value for key, value in found.items() if key[0] == SUITE]
    if suites:
        found[OVERALL, "", ""] = Recovery.mean(suites)
    return Recoveries(label, groups, found)


def groups_of(pairs: Sequence[Pair], rules: Rules) -> list[Group]:
    """Return suites, tasks, and what of a suite shares a category or language, with their scores.

    They come in this order, and suites and tasks in the order of `pairs`.
    """
    suites: dict[str, list[Cell]] = {}
    parts: dict[tuple[str, str, str], list[Cell]] = {}
    tasks = []
    for one in progress(pairs, desc="recovery", unit="tasks", leave=False):
        whole = _cell(one, rules)
        tasks.append(Group(TASK, one.suite, one.teacher.name, [whole]))
        if one.teacher.in_suite:
            suites.setdefault(one.suite, []).append(whole)
        for level in (LANGUAGE, CATEGORY):
            for name, keys in _split(one, level).items():
                is_whole = len(keys) == len(one.teacher.items)
                cell = whole if is_whole else _cell(one, rules, keys, f"{level} {name}")
                parts.setdefault((level, one.suite, name), []).append(cell)
    return [
        *(Group(SUITE, name, name, cells) for name, cells in suites.items()),
        *tasks,
        *(Group(*key, cells) for key, cells in parts.items()),
    ]


def _split(one: Pair, level: str) -> dict[str, list[str]]:
    """Return the items of a task by category or language; those without one are in none."""
    found: dict[str, list[str]] = {}
    for key, item in one.teacher.items.items():
        if item.get(level):
            found.setdefault(str(item[level]), []).append(key)
    return found


def _cell(one: Pair, rules: Rules, keys: Sequence[str] | None = None, part: str = "") -> Cell:
    """Score a task, or the items `keys` of it, of the teacher and every repeat of the student."""
    chosen = list(one.teacher.items) if keys is None else list(keys)
    runs = [run.statistics_of(chosen) for run in (one.teacher, *one.student)]
    name = "/".join(filter(None, (one.suite, one.teacher.name, part)))
    teacher, *repeats = rules.bootstrap.estimates(name, runs)
    measured = rules.baselines.get((one.suite, one.teacher.name))
    baseline = one.teacher.baseline if measured is None else None if part else measured
    student = Estimate.mean(repeats)
    return Cell(one.teacher.name, one.teacher.metric, len(chosen), baseline, teacher, student)


def table(students: Sequence[Recoveries], rules: Rules) -> list[Row]:
    """Return one row for every student and figure; each is also set against the stage before."""
    rows = []
    suites = dict.fromkeys(name for one in students for name in one.suites)
    for before, student in zip([None, *students], students, strict=False):
        for key, recovery in student.found.items():
            row = _row(student, key, recovery, rules)
            if key[0] == OVERALL:
                row |= {"suites": student.suites}
                left_out = [name for name in suites if name not in student.suites]
                row["note"] = "; ".join(filter(None, (row["note"], _without(left_out))))
            earlier = before.found.get(key) if before else None
            if before and earlier and _same_tasks(before, student, key):
                row["change"] = _change(before.label, earlier, recovery, rules.bootstrap)
            rows.append(row)
    return rows


def _row(student: Recoveries, key: tuple[str, str, str], recovery: Recovery, rules: Rules) -> Row:
    level, suite, name = key
    group = student.groups.get(key)
    row: Row = {"level": level, "suite": suite or None, "name": name, "student": student.label}
    if group:
        scale = {cell.metric for cell in group.cells}
        floors = [cell.baseline for cell in group.cells]
        row |= {
            "metric": scale.pop() if len(scale) == 1 else "several",
            "tasks": len(group.cells),
            "items": sum(cell.items for cell in group.cells),
            "teacher_score": group.score("teacher").value,
            "student_score": group.score("student").value,
            "baseline": None if None in floors else sum(floors) / len(floors),  # type: ignore[arg-type]
        }
    row["aggregation"] = rules.aggregation(suite) if suite else "mean of suites"
    if level == TASK:
        row["aggregation"] = "one task"
    notes = [recovery.note]
    for prefix, estimate in (("recovery", recovery.plain), ("above_baseline", recovery.above)):
        interval = rules.bootstrap.interval(estimate) if estimate else None
        row[f"{prefix}_percent"] = estimate.value if estimate else None
        row[f"{prefix}_interval_percent"] = list(interval) if interval else None
        if estimate and not interval:
            notes.append("in some resamples the teacher has nothing to recover: no interval")
    return row | {"note": "; ".join(dict.fromkeys(filter(None, notes)))}


def _without(suites: Sequence[str]) -> str:
    return f"without {', '.join(suites)}" if suites else ""


def _change(label: str, before: Recovery, now: Recovery, bootstrap: Bootstrap) -> Row:
    """Return by how many points a recovery differs from the stage before, on the same draws."""
    found: Row = {"from": label}
    kinds: dict[str, Callable[[Recovery], Estimate | None]] = {
        "recovery": lambda one: one.plain,
        "above_baseline": lambda one: one.above,
    }
    for prefix, of in kinds.items():
        old, new = of(before), of(now)
        difference = new - old if old and new else None
        interval = bootstrap.interval(difference) if difference else None
        found[f"{prefix}_points"] = difference.value if difference else None
        found[f"{prefix}_interval_points"] = list(interval) if interval else None
    return found


def _same_tasks(before: Recoveries, student: Recoveries, key: tuple[str, str, str]) -> bool:
    """Whether two students' figures come from the same tasks: suites, for those over all."""
    if key in student.groups and key in before.groups:
        one, other = before.groups[key], student.groups[key]
        return [cell.task for cell in one.cells] == [cell.task for cell in other.cells]
    return before.suites == student.suites
