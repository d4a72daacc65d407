"""``bielik report --paper``: the report's Table 4, rebuilt from its Tables 5 to 15.

Each benchmark's recovery is the student's score as a share of its teacher's; where a table has
several rows, either the mean of their ratios (EuroEval) or the ratio of their means (BFCL), which
are the aggregations that reproduce what is printed. What the report says twice and differently is
listed beside.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.evaluate.recovery import recovery_percent
from nemo_bielik.paper.contradictions import contradictions
from nemo_bielik.paper.tables import benchmark_columns, benchmark_rows, paper_tables, table
from nemo_bielik.planner.table import align


@dataclass(kw_only=True)
class PaperConfig:
    """The report's recovery table, recomputed from its own tables of scores."""

    paper: bool = field(default=False, metadata={"help": "show the report's own figures"})
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})
    table: int | None = field(
        default=None, metadata={"help": "show this one of its tables, 4 to 16"}
    )

    def __post_init__(self) -> None:
        if self.table is not None:
            table(self.table)


def benchmark_recovery(benchmark: dict[str, Any]) -> float:
    """Return the recovery of one benchmark in percent, aggregated as the report does."""
    rows = benchmark_rows(benchmark)
    teachers, students = [row[1] for row in rows], [row[2] for row in rows]
    if benchmark.get("aggregation") == "mean of ratios":
        ratios = map(recovery_percent, students, teachers)
        return sum(ratios) / len(students)
    return recovery_percent(sum(students), sum(teachers))


def rebuild() -> dict[str, Any]:
    """Return Table 4 as it follows from Tables 5 to 15, and where the report contradicts itself."""
    benchmarks = paper_tables()["benchmarks"]
    recovered = [benchmark_recovery(one) for one in benchmarks]
    overall = sum(recovered) / len(recovered)
    (_, printed_overall, _), *printed = table(4)["rows"]
    return {
        "rows": [
            {
                "benchmark": benchmark["name"],
                "table": benchmark["table"],
                "teacher": benchmark["teacher"],
                "student": benchmark["student"],
                "recovery_percent": round(value, 1),
                "printed_percent": row[1],
                "parts": _parts(benchmark),
            }
            for benchmark, value, row in zip(benchmarks, recovered, printed, strict=True)
        ],
        "overall_percent": round(overall, 1),
        "printed_overall_percent": printed_overall,
        "contradictions": contradictions(),
        "tables": paper_tables()["tables"],
    }


def _parts(benchmark: dict[str, Any]) -> dict[str, float]:
    """Return the recovery of every column or row of a benchmark's table, in percent."""
    return {
        name: round(recovery_percent(student, teacher), 2)
        for name, teacher, student in benchmark_columns(benchmark)
    }


def print_paper(config: PaperConfig) -> None:
    """Print the rebuilt table, or one of the report's own."""
    if config.table is not None:
        _print_table(config)
        return
    found = rebuild()
    if config.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    cells = [
        [row["benchmark"], str(row["table"]), *_percents(row["recovery_percent"], row)]
        for row in found["rows"]
    ]
    overall = {"printed_percent": found["printed_overall_percent"]}
    cells.append(["mean of the nine", "4", *_percents(found["overall_percent"], overall)])
    print(align(["benchmark", "from table", "recovery", "printed"], cells))
    print(
        "\nPlain ratios: in Tables 5 to 11 of the Instruct student to the Instruct teacher, in "
        'Table 15 of\n"Bielik-Minitron-7B" to the Instruct teacher; Table 12 does not say which '
        "stages it compares."
    )
    print("\nWhere the report contradicts itself:")
    for line in found["contradictions"]:
        print(f"  {line}")


def _print_table(config: PaperConfig) -> None:
    assert config.table is not None
    found = table(config.table)
    if config.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    print(f"Table {config.table}: {found['title']}\n")
    rows = [["–" if cell is None else str(cell) for cell in row] for row in found["rows"]]
    print(align(found["columns"], rows))


def _percents(recomputed: float, row: dict[str, Any]) -> list[str]:
    return [f"{recomputed:.1f} %", f"{row['printed_percent']:.1f} %"]
