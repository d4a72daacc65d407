"""Recoveries as rows of ``results.json``, each set against the stage before."""

from collections.abc import Callable, Sequence
from typing import Any

from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.recovery.aggregation import NINE, OVERALL, TASK, Recoveries, Recovery, Rules

Row = dict[str, Any]


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
            if key[0] == NINE:
                row |= {"suites": student.benchmarks}
            earlier = before.found.get(key) if before else None
            if before and earlier and before.tasks(key) == student.tasks(key):
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
