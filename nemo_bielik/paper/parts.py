"""What the report's figures of BFCL, EuroEval and CPTUB are made of, as our suites name it."""

from functools import cache

from nemo_bielik.paper.tables import benchmark_columns, benchmark_of, benchmark_rows


@cache
def bfcl_categories() -> tuple[str, ...]:
    """Return BFCL's names of the columns of the report's Table 15, all by accuracy of the AST."""
    return tuple(column.removeprefix("non_live_") for column in _parts("bfcl"))


@cache
def euroeval_rows() -> dict[tuple[str, str], str]:
    """Return the rows of the report's Table 12 by EuroEval's names of (task, metric)."""
    found = {}
    for row in _parts("euroeval"):
        category, metric = row.lower().split(", ")
        key = category.replace(" ", "-"), metric.replace(" ", "_").replace("-", "_")
        found[key] = row
    return found


@cache
def cptub_tasks() -> tuple[str, ...]:
    """Return the four columns of the report's Table 7 whose mean is its overall score."""
    benchmark = benchmark_of("cptub")
    assert benchmark is not None
    columns = [name for name, _, _ in benchmark_columns(benchmark)]
    return tuple(name for name in columns if name not in ("overall", "implicatures_average"))


def _parts(suite: str) -> list[str]:
    benchmark = benchmark_of(suite)
    assert benchmark is not None
    return [name for name, _, _ in benchmark_rows(benchmark)]
