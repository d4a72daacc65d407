"""The plan of a search (`plan.py`) as text: candidates, rungs and sums."""

from collections.abc import Sequence
from typing import Any

from nemo_bielik.planner.table import align
from nemo_bielik.report.wording import size_bytes

_UNJUDGED = (
    "stability is NOT judged: rung 1 ends before the warm-up and the judge.window steps that "
    "spikes are measured against; take more steps, a shorter warm-up or a smaller factor"
)


def plan_in_words(found: dict[str, Any]) -> str:
    """Return the plan's paragraphs: the candidates, the rungs, the sums."""
    parts = [_candidate_table(found), "No candidate is within the limits."]
    if found["rungs"]:
        parts[1:] = [_rung_table(found), "\n".join(_sums(found))]
    return "\n\n".join(parts)


def _candidate_table(found: dict[str, Any]) -> str:
    with_hours = any(row["hours"] is not None for row in found["candidates"])
    head = ["candidate", "parameters", "fewer", "GB", "ms/token"]
    head += ["layout", "hours", "GPU-hours"] if with_hours else []
    cells = [_cells(row) for row in found["candidates"]]
    title = (
        f"{found['source']} → {_billions(found['tokens'])} tokens each, "
        f"{'on ' + found['cluster'] + ', ' if with_hours else ''}the teacher {found['teacher']};\n"
        f"GB: bf16 weights and cache of {found['context']:,} tokens; "
        f"ms/token: one sequence on one {found['device']}"
    )
    refused = [
        f"{row['name']}: {'; '.join(breach['words'] for breach in row['breaches'])}"
        for row in found["candidates"]
        if row["breaches"]
    ]
    if found["left_out"]:
        refused.append(
            f"left out, since they cut nothing or the same as one above: "
            f"{', '.join(found['left_out'])}"
        )
    return "\n".join([title, align(head, cells), *refused])


def _cells(row: dict[str, Any]) -> list[str]:
    cells = [
        row["name"],
        f"{row['parameters'] / 1e9:.2f} B"
        if row["parameters"] >= 1e8
        else f"{row['parameters']:,}",
        f"{row['reduction_percent']:.1f} %",
        f"{row['memory_bytes'] / 1e9:.3g}",
        f"{1e3 * row['seconds_per_token']:.3g}",
    ]
    if row["hours"] is None:
        return cells
    return [*cells, row["layout"], f"{row['hours']:,.3g}", f"{row['gpu_hours']:,.0f}"]


def _billions(tokens: float) -> str:
    return f"{tokens / 1e9:,.3g} billion" if tokens >= 1e9 else f"{tokens:,}"


def _rung_table(found: dict[str, Any]) -> str:
    head = ["rung", "candidates", "from step", "to step", "steps in all"]
    cells = [
        [
            str(number),
            *(f"{rung[name]:,}" for name in ("entrants", "first_step", "last_step")),
            f"{rung['steps'] * found['seeds']:,}",
        ]
        for number, rung in enumerate(found["rungs"], start=1)
    ]
    return align(head, cells)


def _sums(found: dict[str, Any]) -> list[str]:
    search, report = found["search"], found["report"]
    count, seeds = found["rungs"][0]["entrants"], found["seeds"]
    within = sum(not row["breaches"] for row in found["candidates"])
    lines = [
        f"{len(found['candidates'])} candidates, {within} within limits, {count} to train, "
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        f"the search: {search['tokens']:,} tokens at most, {search['share_of_tokens']:.1%} of "
        f"{search['exhaustive_tokens']:,} for all {count} to the end",
    ]
    if search["hours"]:
        low, middle, high = search["hours"]
        whole = search["exhaustive_hours"]
        lines.append(
            f"that is {middle:,.4g} hours ({low:,.4g}–{high:,.4g}, by who goes on) of "
            f"{whole:,.4g}; {middle * found['gpus']:,.0f} of {whole * found['gpus']:,.0f} GPU-hours"
        )
    if report:
        lines.append(
            f"by the report's {report['run_hours'][0]:g}–{report['run_hours'][1]:g} hours a run: "
            f"{report['runs']} runs take {_days(report['exhaustive_hours'])}, the search "
            f"{_days(report['hours'])}: {_days(report['saved_hours'])} saved"
        )
    if not found["judged_steps"]:
        lines.append(_UNJUDGED)
    return [*lines, _cache_line(found)]


def _cache_line(found: dict[str, Any]) -> str:
    cache, is_live = found["teacher_cache"], found["teacher"] == "live"
    size = cache["bytes"]
    words = f"{size / 1e12:.3g} TB" if size >= 1e12 else size_bytes(size)
    passes = "" if cache["hours"] is None else f" and {cache['hours']:.3g} hours to make"
    return (
        f"{'a cached teacher would take' if is_live else 'the cached teacher takes'} {words} "
        f"(k = {cache['k']}){passes}"
    )


def _days(hours: Sequence[float]) -> str:
    low, high = hours
    return f"{low:,.0f}–{high:,.0f} hours ({low / 24:.1f}–{high / 24:.1f} days)"
