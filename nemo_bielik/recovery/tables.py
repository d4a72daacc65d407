"""The tables of a recovery page, cell by cell; ``data-figure`` names each cell there."""

from collections.abc import Mapping
from typing import Any

from nemo_bielik.paper.tables import table
from nemo_bielik.recovery.aggregation import MEAN_OF_RATIOS, OVERALL, SUITE, TASK
from nemo_bielik.recovery.rows import Row
from nemo_bielik.recovery.words import (
    NOT_COUNTED,
    drawn_text,
    external_text,
    interval_text,
    limit_text,
    overall_remark,
    prefix,
    score_text,
    share,
    version_text,
)
from nemo_bielik.report import wording
from nemo_bielik.report.figures import Figure


def models(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return who is held against whom: one row a model."""
    return [
        {
            "label": one["label"],
            "against": one["against"] or "",
            "model": one["model"] or "not named",
            "external": external_text(one),
            "made_by": one["made_by"] or wording.NONE,
            "fingerprint": ", ".join(hashed[:12] or wording.NONE for hashed in one["fingerprints"]),
            "evaluations": one["evaluations"],
            "perplexity": wording.perplexity(one["perplexity"])
            if one["perplexity"] is not None
            else wording.NONE,
        }
        for one in (found["teacher"], *found["students"])
    ]


def stages(found: dict[str, Any]) -> dict[str, Any]:
    """Return the table of stages: one row a model, one column a suite, as the report's Table 14."""
    by_key = {(row["student"], row["suite"]): row for row in _level(found, SUITE)}
    overall = {row["student"]: row for row in _level(found, OVERALL)}
    suites = list(dict.fromkeys(row["suite"] for row in _level(found, SUITE)))
    labels = [student["label"] for student in found["students"]]
    return {
        "suites": [{"name": name, "limit": _limit(found, name)} for name in suites],
        "teacher": [_teacher_cell(found, name) for name in suites],
        "rows": [
            {
                "label": label,
                "cells": [_suite_cell(by_key.get((label, name)), found) for name in suites],
                "overall": _overall_cell(overall.get(label), found),
                "change": _change_cell(overall.get(label), found),
            }
            for label in labels
        ],
    }


def tasks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a table for every suite: one row a task, one column a student."""
    shown = []
    for name, suite in found["suites"].items():
        rows = [row for row in _level(found, TASK) if row["suite"] == name]
        by_task: dict[str, dict[str, Row]] = {}
        for row in rows:
            by_task.setdefault(row["name"], {})[row["student"]] = row
        if rows:
            shown.append(
                {
                    "suite": name,
                    "limit": _limit(found, name),
                    "version": version_text(suite["version"]),
                    "aggregation": MEAN_OF_RATIOS if suite["aggregation"] == MEAN_OF_RATIOS else "",
                    "rows": [_task(task, own, suite, found) for task, own in by_task.items()],
                }
            )
    return shown


def paper_table(number: int) -> dict[str, Any]:
    """Return one of the report's tables as texts."""
    printed = table(number)
    return {
        "number": number,
        "columns": [column.replace("_", " ") for column in printed["columns"]],
        "rows": [["–" if cell is None else str(cell) for cell in row] for row in printed["rows"]],
    }


def _level(found: dict[str, Any], level: str) -> list[Row]:
    return [row for row in found["rows"] if row["level"] == level]


def _limit(found: dict[str, Any], suite: str) -> str:
    return limit_text(found["suites"][suite]["limit"])


def _teacher_cell(found: dict[str, Any], suite: str) -> Figure:
    row = next(row for row in _level(found, SUITE) if row["suite"] == suite)
    return Figure(f"teacher.{suite}", score_text(row["teacher_score"]))


def _suite_cell(row: Row | None, found: dict[str, Any]) -> Figure:
    if row is None:
        return Figure("", wording.NONE)
    value, ends = share(row, found["ratio"])
    kept = wording.NONE if value is None else wording.percent(value)
    remark = f"{kept} ({interval_text(ends)})" if ends else kept
    remark = "; ".join(filter(None, (remark, row["note"])))
    name = f"{row['student']}.{row['suite']}"
    return Figure(name, score_text(row["student_score"]), remark)


def _overall_cell(row: Row | None, found: dict[str, Any]) -> Figure:
    if row is None:
        return Figure("", wording.NONE, "nothing compared")
    value = share(row, found["ratio"])[0]
    text = wording.NONE if value is None else wording.percent(value)
    return Figure(f"overall.{row['student']}", text, overall_remark(row, found))


def _share_cell(name: str, row: Row, found: dict[str, Any]) -> Figure:
    value, ends = share(row, found["ratio"])
    if value is None:
        return Figure(name, wording.NONE, row["note"])
    return Figure(name, wording.percent(value), interval_text(ends) or row["note"])


def _change_cell(row: Row | None, found: dict[str, Any]) -> Figure:
    change: Mapping[str, Any] = (row or {}).get("change") or {}
    points = change.get(f"{prefix(found['ratio'])}_points")
    if points is None:
        return Figure("", wording.NONE)
    ends = change[f"{prefix(found['ratio'])}_interval_points"]
    sign = "+" if points > 0 else ""
    text = f"{sign}{wording.number(points)}"
    return Figure(f"change.{(row or {})['student']}", text, interval_text(ends))


def _task(
    name: str, own: Mapping[str, Row], suite: dict[str, Any], found: dict[str, Any]
) -> dict[str, Any]:
    first = next(iter(own.values()))
    told = suite["tasks"].get(name, {})
    shots = f"{told['few_shot']}-shot" if told.get("few_shot") is not None else ""
    cut = "prompts cut" if told.get("prompts_cut") else ""
    alone = "" if told.get("in_suite", True) else NOT_COUNTED
    about = [told.get(key) for key in ("language", "dataset", "split", "schema")]
    about += [shots, cut, alone, drawn_text(told.get("drawn"))]
    cells = {
        label: _share_cell(f"{label}.{first['suite']}.{name}", row, found)
        for label, row in own.items()
    }
    return {
        "name": name,
        "about": ", ".join(str(part) for part in about if part),
        "metric": first["metric"],
        "count": f"{first['items']:,}",
        "baseline": score_text(first["baseline"]),
        "teacher": score_text(first["teacher_score"]),
        "scores": {label: score_text(row["student_score"]) for label, row in own.items()},
        "cells": cells,
    }
