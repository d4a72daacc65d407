"""Recoveries by task, category, language, suite, over all suites and over the report's nine.

Aggregated as the report does it: a suite's recovery is the ratio of the mean scores of its tasks
(as from an average column of the report's tables), or the mean of the ratios of its rows (EuroEval,
where a row is a metric of a category, over all its datasets); that of all suites is the mean of
theirs. A category or language is treated as a suite of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.paper.tables import benchmark_of
from nemo_bielik.progress import progress
from nemo_bielik.recovery.pairing import Pair

TASK, CATEGORY, LANGUAGE, SUITE, OVERALL = "task", "category", "language", "suite", "overall"
#: The mean over those of the report's nine benchmarks that ran, as its own overall figure.
NINE = "the report's benchmarks"
RATIO_OF_MEANS, MEAN_OF_RATIOS = "ratio of means", "mean of ratios"


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
    row: str = ""


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
            rows: dict[str, list[Cell]] = {}
            for cell in self.cells:
                rows.setdefault(cell.row or cell.task, []).append(cell)
            parts = [replace(self, cells=cells) for cells in rows.values()]
            return Recovery.mean([part.recovery(RATIO_OF_MEANS) for part in parts])
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

    @property
    def benchmarks(self) -> list[str]:
        """Those of them that are benchmarks of the report."""
        return [name for name in self.suites if benchmark_of(name)]

    def tasks(self, key: tuple[str, str, str]) -> list[tuple[str, str]]:
        """Return the tasks that a figure is made of, each with its suite."""
        level, _, name = key
        if key in self.groups:
            groups = [self.groups[key]]
        elif level in (OVERALL, NINE):
            suites = self.benchmarks if level == NINE else self.suites
            groups = [self.groups[SUITE, suite, suite] for suite in suites]
        else:  # a language or category of several suites
            groups = [one for at, one in self.groups.items() if (at[0], at[2]) == (level, name)]
        return [(group.suite, cell.task) for group in groups for cell in group.cells]


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
    nine = [value for key, value in found.items() if key[0] == SUITE and benchmark_of(key[2])]
    if nine:
        found[NINE, "", ""] = Recovery.mean(nine)
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
                cell = whole if is_whole else _cell(one, rules, keys)
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


def _cell(one: Pair, rules: Rules, keys: Sequence[str] | None = None) -> Cell:
    """Score a task, or the items `keys` of it, of the teacher and every repeat of the student."""
    chosen = sorted(one.teacher.items if keys is None else keys, key=one.teacher.question)
    runs = [run.statistics_of(chosen) for run in (one.teacher, *one.student)]
    teacher, *repeats = rules.bootstrap.estimates(drawn_from(one, chosen), runs)
    measured = rules.baselines.get((one.suite, one.teacher.name))
    baseline = one.teacher.baseline if measured is None else measured if keys is None else None
    student = Estimate.mean(repeats)
    task = one.teacher
    return Cell(task.name, task.metric, len(chosen), baseline, teacher, student, task.row)


def drawn_from(one: Pair, keys: Sequence[str]) -> str:
    """Return what decides the draws of the items `keys`: where the questions come from, and which.

    Tasks that ask the same questions, in several languages or ways, are scored on the same draws:
    a model that fails one of them often fails it in the others, and drawn apart that would be taken
    for agreement of independent tasks.
    """
    task = one.teacher
    dataset, split = task.about.get("dataset"), task.about.get("split")
    source = f"{dataset}/{split}" if dataset else f"{one.suite}/{task.name}"
    return "\n".join([source, *map(task.question, keys)])
