"""A user's run beside the report's figures: the same ratios, and what they are not the same of."""

from collections.abc import Hashable, Mapping
from statistics import fmean
from typing import Any

from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.paper.parts import bfcl_categories, cptub_tasks, euroeval_rows
from nemo_bielik.paper.recovery import benchmark_recovery
from nemo_bielik.paper.tables import benchmark_of, paper_tables
from nemo_bielik.recovery.aggregation import NINE, SUITE, TASK
from nemo_bielik.recovery.rows import Row
from nemo_bielik.recovery.words import interval_text, limit_text, limited_suites
from nemo_bielik.report import wording
from nemo_bielik.report.figures import Figure

#: What of a suite of ours is never the report's: docs/suites.md, "What is ours".
_OURS = {
    "open-pl": "prompts are ours; DYK, PSC and CBD are scored by macro F1; "
    "the leaderboard's average is above baselines, ours is of plain scores",
    "eq-bench-pl": "prompts are ours; first ratings only",
    "medical": "prompts are ours",
    "include-base-44": "the 20 languages are our choice",
    "belebele": "the 28 languages are our choice",
    "flores": "prompts and the 20 languages are our choice",
}


def beside_report(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return plain recoveries by suite beside the report's; only suites that the report has."""
    rows: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        benchmark = benchmark_of(row["suite"]) if row["level"] == SUITE else None
        if benchmark is None or row["recovery_percent"] is None:
            continue
        own = rows.setdefault(
            row["suite"],
            {
                "suite": row["suite"],
                "limit": limit_text(found["suites"][row["suite"]]["limit"]),
                "benchmark": f"{benchmark['name']}, Table {benchmark['table']}",
                "differs": differences(row["suite"], found),
                "report": wording.percent(benchmark_recovery(benchmark)),
                "students": {},
            },
        )
        remark = interval_text(row["recovery_interval_percent"])
        text = wording.percent(row["recovery_percent"])
        own["students"][row["student"]] = Figure(f"plain.{row['student']}", text, remark)
    return [*rows.values(), *_mean(list(rows), found)]


def _mean(suites: list[str], found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the row that answers the report's overall figure: the mean of what ran of the nine."""
    means = [row for row in found["rows"] if row["level"] == NINE]
    if not means:
        return []
    nine = paper_tables()["benchmarks"]
    ran = [one for one in nine if set(one["suites"]) & set(suites)]
    return [
        {
            "suite": "mean of the benchmarks",
            "limit": limited_suites(found, suites),
            "benchmark": "the mean of the nine, Table 4",
            "differs": f"{len(ran)} of {len(nine)}; the report’s mean of these: "
            f"{wording.percent(fmean(map(benchmark_recovery, ran)))}",
            "report": wording.percent(fmean(map(benchmark_recovery, nine))),
            "students": {row["student"]: _mean_cell(row, len(nine)) for row in means},
        }
    ]


def _mean_cell(row: Row, nine: int) -> Figure:
    value = row["recovery_percent"]
    text = wording.NONE if value is None else wording.percent(value)
    count = f"{len(row['suites'])} of {nine}"
    parts = (interval_text(row["recovery_interval_percent"]), count, row["note"])
    return Figure(f"nine.{row['student']}", text, "; ".join(filter(None, parts)))


def differences(suite: str, found: dict[str, Any]) -> str:
    """Return in what tasks and metrics a suite differs from the report's; "" if in nothing known.

    What the suite's figure counts is looked at, as far as it could be compared.
    """
    compared = {
        row["name"] for row in found["rows"] if row["level"] == TASK and row["suite"] == suite
    }
    tasks = {
        name: task
        for name, task in found["suites"][suite]["tasks"].items()
        if name in compared and task["in_suite"]
    }
    if suite == "bfcl":
        return _lacks({name: name for name in bfcl_categories()}, set(tasks))
    if suite == "cptub":
        return _lacks({name: name for name in cptub_tasks()}, set(tasks))
    if suite == "euroeval":
        keys = {(one["category"], one["metric"].removeprefix("mean ")) for one in tasks.values()}
        return _lacks(euroeval_rows(), keys)
    return "; ".join(filter(None, (_OURS.get(suite, ""), _part(suite, len(tasks)))))


def _lacks(wanted: Mapping[Any, str], there: set[Hashable] | set[Any]) -> str:
    missing = [name for key, name in wanted.items() if key not in there]
    if not missing:
        return ""
    kept = len(wanted) - len(missing)
    which = f"{kept} of its {len(wanted)}, without {'; '.join(missing)}" if kept else "none of its"
    return f"other tasks or metrics than the report’s: {which}"


def _part(suite: str, compared: int) -> str:
    try:
        (known,) = find_suites([suite])
    except ConfigError:  # an evaluation may hold suites that are none of ours
        return ""
    total = len(known.tasks)
    return f"{compared} of the suite’s {total} tasks" if compared < total else ""
