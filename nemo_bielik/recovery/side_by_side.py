"""``bielik compare RUN RUN``: two evaluations, or two recoveries, side by side.

Every difference is the second less the first, with an interval of the paired bootstrap: both runs
are scored on the same draws of items, so the interval is that of the difference and not a guess
from two intervals. What was not asked alike in both is named and left out.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.evaluate.stage import RESULTS_NAME
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.planner.table import align
from nemo_bielik.recovery.aggregation import (
    NINE,
    OVERALL,
    SUITE,
    TASK,
    Recoveries,
    Rules,
    groups_of,
)
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.gather import compare_stages, measured_baselines, open_stages
from nemo_bielik.recovery.pairing import Gap, Stage, pair
from nemo_bielik.recovery.words import interval_text, limit_text, score_text
from nemo_bielik.report.gather import read_object
from nemo_bielik.report.wording import NONE, number

EVALUATE, RECOVERY = "evaluate", "recovery"

#: What of a recovery's settings decides its figures.
_SETTINGS = {"teacher", "students", "labels", "mean_of_ratios", "baselines", "above_baseline"}


@dataclass(kw_only=True)
class CompareRunsConfig:
    """Two evaluations or two recoveries side by side, with intervals of their differences."""

    runs: list[Path] = field(
        metadata={"help": "two directories, evaluations or recoveries", "positional": True}
    )
    resamples: int = field(default=2000, metadata={"help": "times that items are drawn anew"})
    confidence: float = field(default=0.95, metadata={"help": "share that an interval covers"})
    seed: int = field(default=1, metadata={"help": "decides what is drawn"})
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})

    def __post_init__(self) -> None:
        if len(self.runs) != 2:
            raise ConfigError(f"{len(self.runs)} runs; give two directories to compare")
        self.bootstrap()

    def bootstrap(self) -> Bootstrap:
        """Return how items are drawn."""
        return Bootstrap(self.resamples, self.confidence, self.seed)


@dataclass(frozen=True)
class Difference:
    """One figure of both runs; `student` is empty for evaluations, whose figures are scores."""

    level: str
    suite: str
    name: str
    student: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None
    limit: str


def compare_runs(config: CompareRunsConfig) -> None:
    """Print two runs side by side; raise `DataError` if nothing of them can be compared."""
    kinds = [_kind(path) for path in config.runs]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{config.runs[0]} is of stage {kinds[0]!r}, {config.runs[1]} of {kinds[1]!r}; give "
            "two evaluations or two recoveries"
        )
    compare = _evaluations if kinds[0] == EVALUATE else _recoveries
    rows, gaps = compare(config)
    if not rows:
        why = f" ({gaps[0]})" if gaps else ""
        raise DataError(f"{config.runs[0]}, {config.runs[1]}: nothing was asked alike{why}")
    if config.json:
        found = {
            "runs": [str(path) for path in config.runs],
            "kind": "score" if kinds[0] == EVALUATE else "recovery_percent",
            "confidence": config.confidence,
            "rows": [asdict(row) for row in rows],
            "without": [gap.plain() for gap in gaps],
        }
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(config, rows, gaps)


def _kind(path: Path) -> str:
    if not (path / MANIFEST_NAME).is_file():
        raise DataError(
            f"{path}: holds no {MANIFEST_NAME}; give a directory that `bielik evaluate` or "
            "`bielik recovery` made"
        )
    stage = Manifest.load(path).stage
    if stage not in (EVALUATE, RECOVERY):
        raise DataError(f"{path}: was made by stage {stage!r}; give an evaluation or a recovery")
    return stage


def _evaluations(config: CompareRunsConfig) -> tuple[list[Difference], list[Gap]]:
    """Compare the scores of two evaluations."""
    first, second = (
        Stage(label, (read_evaluation(path),))
        for label, path in zip(("first", "second"), config.runs, strict=True)
    )
    pairs, gaps = pair(first, second, zero_allowed=True)
    rows = []
    for group in groups_of(pairs, Rules(bootstrap=config.bootstrap())):
        key = (group.level, group.suite, group.name)
        scores = group.score("teacher"), group.score("student")
        limit = limit_text(first.evaluations[0].suites[group.suite].limit)
        rows.append(_difference(key, "", scores, limit, config))
    return rows, gaps


@dataclass(frozen=True)
class _Opened:
    """A recovery made again from the evaluations that its manifest names."""

    above: bool
    students: dict[str, Recoveries]
    suites: dict[str, Any]
    gaps: list[Gap]

    @classmethod
    def of(cls, path: Path, bootstrap: Bootstrap) -> "_Opened":
        made = Manifest.load(path).config
        if lacking := _SETTINGS - made.keys():
            raise DataError(
                f"{path / MANIFEST_NAME}: lacks the setting {min(lacking)}; make the recovery again"
            )
        rules = Rules(
            bootstrap=bootstrap,
            mean_of_ratios=tuple(made["mean_of_ratios"]),
            baselines=measured_baselines([Path(one) for one in made["baselines"]]),
        )
        teacher, students = open_stages(
            Path(made["teacher"]), [Path(one) for one in made["students"]], made["labels"]
        )
        found, gaps = compare_stages(teacher, students, rules)
        suites = read_object(path / RESULTS_NAME)["suites"]
        return cls(made["above_baseline"], {one.label: one for one in found}, suites, gaps)


def _recoveries(config: CompareRunsConfig) -> tuple[list[Difference], list[Gap]]:
    """Compare two recoveries, student by student."""
    first, second = (_Opened.of(path, config.bootstrap()) for path in config.runs)
    if first.above != second.above:
        raise DataError(
            "one recovery is above the baseline, the other the plain ratio; make both alike"
        )
    reason = "its version, limit or items are not those of the first run"
    changed = [
        name
        for name, suite in first.suites.items()
        if name in second.suites and suite != second.suites[name]
    ]
    gaps = [Gap(name, "", "second", reason, True) for name in changed]
    gaps += _other_tasks(first, second)
    return list(_matched(first, second, changed, config)), [*first.gaps, *second.gaps, *gaps]


def _other_tasks(first: _Opened, second: _Opened) -> Iterator[Gap]:
    """Name the suites that a student's two figures take different tasks of."""
    for label in [label for label in first.students if label in second.students]:
        one, other = first.students[label], second.students[label]
        for suite in [suite for suite in one.suites if suite in other.suites]:
            if one.tasks((SUITE, suite, suite)) != other.tasks((SUITE, suite, suite)):
                yield Gap(suite, "", label, "the runs' figures are of different tasks", True)


def _matched(
    first: _Opened, second: _Opened, changed: Sequence[str], config: CompareRunsConfig
) -> Iterator[Difference]:
    """Yield the figures of students and suites that both recoveries have alike."""
    for label in [label for label in first.students if label in second.students]:
        one, other = first.students[label], second.students[label]
        for key, recovery in one.found.items():
            match = other.found.get(key)
            if match is None or one.tasks(key) != other.tasks(key):
                continue
            suites = list(dict.fromkeys(suite for suite, _ in one.tasks(key)))
            if set(suites) & set(changed):
                continue
            pairs = (recovery.above, match.above) if first.above else (recovery.plain, match.plain)
            if pairs[0] and pairs[1]:
                limits = (limit_text(first.suites[suite]["limit"]) for suite in suites)
                limit = "; ".join(dict.fromkeys(filter(None, limits)))
                yield _difference(key, label, (pairs[0], pairs[1]), limit, config)


def _difference(
    key: tuple[str, str, str],
    student: str,
    figures: tuple[Estimate, Estimate],
    limit: str,
    config: CompareRunsConfig,
) -> Difference:
    first, second = figures
    difference = second - first
    interval = config.bootstrap().interval(difference)
    values = (first.value, second.value, difference.value)
    return Difference(*key, student, *values, interval, limit)


def _print(config: CompareRunsConfig, rows: Sequence[Difference], gaps: Sequence[Gap]) -> None:
    print(f"  first:  {config.runs[0]}\n  second: {config.runs[1]}\n")
    head = ["", "first", "second", "difference", f"{100 * config.confidence:g} % interval", ""]
    print(align(head, [_cells(row) for row in _ordered(rows)]))
    if gaps:
        print("\nWithout a figure:")
        for line in dict.fromkeys(map(str, gaps)):
            print(f"  {line}")


def _ordered(rows: Sequence[Difference]) -> list[Difference]:
    """Return what is printed: by student the overall figure, then each suite and its tasks."""
    tasks = [row for row in rows if row.level == TASK and row.name != row.suite]
    shown: list[Difference] = []
    for student in dict.fromkeys(row.student for row in rows):
        own = [row for row in rows if row.student == student]
        shown += [row for row in own if row.level in (OVERALL, NINE)]
        for suite in (row for row in own if row.level == SUITE):
            inside = [row for row in tasks if (row.student, row.suite) == (student, suite.suite)]
            shown += [suite, *inside]
    return shown


def _cells(row: Difference) -> list[str]:
    means = {OVERALL: "mean of suites", NINE: "mean of the report's benchmarks"}
    name = (means | {SUITE: row.suite}).get(row.level, f"  {row.name}")
    is_score = not row.student
    value = score_text if is_score else number
    digits = 3 if is_score and abs(row.first) < 2 else 2 if is_score else 1
    ends = row.interval
    verdict = "no interval" if ends is None else "holds 0" if ends[0] <= 0 <= ends[1] else ""
    return [
        f"{row.student}: {name}" if row.student else name,
        value(row.first),
        value(row.second),
        f"{row.difference:+.{digits}f}".replace("-", "−"),
        interval_text(ends, digits) or NONE,
        "; ".join(filter(None, (verdict, row.limit))),
    ]
