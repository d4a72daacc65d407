"""The report's Tables 4 to 16 as they are printed, and how its benchmarks read them."""

import json
from functools import cache
from importlib import resources
from typing import Any

from nemo_bielik.errors import ConfigError

#: The row and column of a benchmark whose table has no row for each model.
_TWO_COLUMNS = ("category", "metric")


@cache
def paper_tables() -> dict[str, Any]:
    """Return the report's figures as they are printed there; `speed` is Table 16 by name."""
    text = (resources.files(__package__) / "tables.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    table = found["tables"]["16"]
    for role, row in zip(("teacher", "student"), table["rows"], strict=True):
        found["speed"][role] = dict(zip(table["columns"][1:], row[1:], strict=True))
    return found


def table(number: int) -> dict[str, Any]:
    """Return one table: its title, columns and rows. Raises `ConfigError` for an unknown one."""
    tables: dict[str, dict[str, Any]] = paper_tables()["tables"]
    if str(number) not in tables:
        known = ", ".join(tables)
        raise ConfigError(f"the report's tables of results are {known}; {number} is none of them")
    return tables[str(number)]


def benchmark_rows(benchmark: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return (what, teacher's score, student's score) of each figure that makes a recovery."""
    found = table(benchmark["table"])
    columns = found["columns"]
    if tuple(columns[:2]) == _TWO_COLUMNS:
        places = columns.index(benchmark["teacher"]), columns.index(benchmark["student"])
        return [(f"{row[0]}, {row[1]}", row[places[0]], row[places[1]]) for row in found["rows"]]
    chosen = [benchmark["column"]] if "column" in benchmark else columns[2:]
    return [one for one in benchmark_columns(benchmark) if one[0] in chosen]


def benchmark_columns(benchmark: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Return (column, teacher's score, student's score) of every column of scores."""
    found = table(benchmark["table"])
    if tuple(found["columns"][:2]) == _TWO_COLUMNS:
        return benchmark_rows(benchmark)
    rows = {row[0]: row for row in found["rows"]}
    teacher, student = rows[benchmark["teacher"]], rows[benchmark["student"]]
    return list(zip(found["columns"], teacher, student, strict=True))[2:]


def benchmark_of(suite: str) -> dict[str, Any] | None:
    """Return the report's benchmark that a suite of ours repeats, or None."""
    benchmarks: list[dict[str, Any]] = paper_tables()["benchmarks"]
    return next((one for one in benchmarks if suite in one["suites"]), None)
