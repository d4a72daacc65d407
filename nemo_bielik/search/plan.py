"""``bielik search --plan``: what a search would cost, candidate by candidate, from sizes alone.

``bielik search --preset paper --plan`` plans the report's own: Bielik-11B-v3 on 2×8 H200. An
estimate by `planner/training_time.py`, which no GPU of ours has confirmed yet.
"""

import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3, ModelArch
from nemo_bielik.distill.cache_format import RecordLayout
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.flops import forward_flops_per_token
from nemo_bielik.planner.parameters import reduction_percent
from nemo_bielik.planner.specs import resolve_arch
from nemo_bielik.planner.table import align
from nemo_bielik.planner.training_time import EFFICIENCY
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.halving import Schedule
from nemo_bielik.search.limits import cost, distillation
from nemo_bielik.search.settings import SearchSettings

#: Hours that the report gives for one candidate on 2×8 H200 (its section 5.2).
REPORT_HOURS = (48.0, 72.0)
_CACHED_TOKENS = 64


@dataclass(kw_only=True)
class SearchPlanConfig(SearchSettings):
    """What a search would cost on `limits.cluster`; nothing is run."""

    plan: bool = field(default=True, metadata={"help": "plan instead of searching"})
    source: str = field(
        default=BIELIK_11B_V3.name, metadata={"help": "the original: a preset or a directory"}
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})


def print_plan(config: SearchPlanConfig) -> None:
    """Print the plan."""
    found = plan(config, resolve_arch(config.source))
    print(json_format.dumps(found, indent=2) if config.json else "\n\n".join(in_words(found)))


def plan(settings: SearchSettings, source: ModelArch) -> dict[str, Any]:
    """Return what each candidate, the search and ten full runs would cost.

    Hours are of the whole cluster. Who goes on is not known, so the search's hours are those of
    candidates of mean cost, with the cheapest and the dearest as ends.
    """
    rows = [_row(candidate, source, settings) for candidate in settings.choose(source)]
    kept = [row for row in rows if not row["breaches"]]
    schedule = settings.schedule(len(kept)) if kept else None
    gpus = Cluster.parse(settings.limits.cluster).gpus
    return {
        "source": source.name,
        "cluster": settings.limits.cluster,
        "gpus": gpus,
        "tokens": settings.recovery.tokens,
        "device": settings.limits.device,
        "context": settings.limits.context,
        "candidates": rows,
        "rungs": schedule.rows() if schedule else [],
        "search": _search(schedule, [row["hours"] for row in kept]) if schedule else None,
        "report": _report(schedule) if schedule else None,
        "teacher_cache": _cache(source, settings) if schedule else None,
    }


def _row(candidate: Candidate, source: ModelArch, settings: SearchSettings) -> dict[str, Any]:
    run, limits = settings.recovery, settings.limits
    best, figures = (
        distillation(candidate.arch, source, run, limits.cluster),
        cost(candidate.arch, limits),
    )
    hours = run.tokens / best.tokens_per_second / 3600
    layout = best.layout
    return {
        "name": candidate.name,
        "parameters": figures.parameters,
        "reduction_percent": reduction_percent(source, candidate.arch),
        "memory_bytes": figures.memory_bytes,
        "seconds_per_token": figures.seconds_per_token,
        "layout": f"TP{layout.tensor} PP{layout.pipeline} DP{layout.data}",
        "fits": best.fits,
        "tokens_per_second": best.tokens_per_second,
        "hours": hours,
        "gpu_hours": hours * Cluster.parse(limits.cluster).gpus,
        "breaches": settings.breaches(candidate, source),
    }


def _search(schedule: Schedule, hours: Sequence[float]) -> dict[str, Any]:
    """Return the hours of all rungs, cheapest, mean and dearest entrants; and of all to the end."""
    ordered, total = sorted(hours), sum(hours)
    whole = schedule.rungs[-1].last_step
    parts = [((rung.last_step - rung.first_step) / whole, rung.entrants) for rung in schedule.rungs]
    mean = total / len(hours)
    return {
        "share_of_tokens": schedule.share,
        "hours": [
            sum(part * sum(ordered[:entrants]) for part, entrants in parts),
            sum(part * entrants * mean for part, entrants in parts),
            sum(part * sum(ordered[::-1][:entrants]) for part, entrants in parts),
        ],
        "exhaustive_hours": total,
    }


def _report(schedule: Schedule) -> dict[str, Any]:
    """Return the same share of as many full runs as the report's 48 to 72 hours each."""
    exhaustive = [schedule.rungs[0].entrants * hours for hours in REPORT_HOURS]
    return {
        "exhaustive_hours": exhaustive,
        "hours": [schedule.share * hours for hours in exhaustive],
        "saved_hours": [(1 - schedule.share) * hours for hours in exhaustive],
    }


def _cache(source: ModelArch, settings: SearchSettings) -> dict[str, Any]:
    """Return what a cache of the teacher takes: bytes, and the hours of its one pass."""
    layout = RecordLayout(
        k=min(_CACHED_TOKENS, source.vocab_size),
        vocab_size=source.vocab_size,
        dtype="float16",
        temperatures=(1.0,),
    )
    run, cluster = settings.recovery, Cluster.parse(settings.limits.cluster)
    flops = forward_flops_per_token(source, run.sequence_length) * run.tokens
    reached = EFFICIENCY * cluster.device.bf16_flops * cluster.gpus
    return {
        "k": layout.k,
        "bytes": layout.bytes_per_token * run.tokens,
        "hours": flops / reached / 3600,
    }


def in_words(found: dict[str, Any]) -> list[str]:
    """Return the plan's paragraphs: the candidates, the rungs, the sums."""
    if not found["rungs"]:
        return [_candidate_table(found), "No candidate is within the limits."]
    return [_candidate_table(found), _rung_table(found), "\n".join(_sums(found))]


def _candidate_table(found: dict[str, Any]) -> str:
    head = ["candidate", "parameters", "fewer", "GB", "ms/token", "layout", "hours", "GPU-hours"]
    cells = [
        [
            row["name"],
            f"{row['parameters'] / 1e9:.2f} B"
            if row["parameters"] >= 1e8
            else f"{row['parameters']:,}",
            f"{row['reduction_percent']:.1f} %",
            f"{row['memory_bytes'] / 1e9:.3g}",
            f"{1e3 * row['seconds_per_token']:.3g}",
            row["layout"] + ("" if row["fits"] else " (does not fit)"),
            f"{row['hours']:,.3g}",
            f"{row['gpu_hours']:,.0f}",
        ]
        for row in found["candidates"]
    ]
    title = (
        f"{found['source']} → {found['tokens'] / 1e9:,.3g} billion tokens each, on "
        f"{found['cluster']}, the teacher live;\n"
        f"GB: bf16 weights and cache of {found['context']:,} tokens; "
        f"ms/token: one sequence on one {found['device']}"
    )
    refused = [
        f"{row['name']}: {'; '.join(row['breaches'])}"
        for row in found["candidates"]
        if row["breaches"]
    ]
    return "\n".join([title, align(head, cells), *refused])


def _size(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} B" if parameters >= 1e8 else f"{parameters:,}"


def _rung_table(found: dict[str, Any]) -> str:
    head = ["rung", "candidates", "from step", "to step", "steps in all"]
    cells = [
        [str(number), *(f"{rung[n]:,}" for n in ("entrants", "first_step", "last_step", "steps"))]
        for number, rung in enumerate(found["rungs"], start=1)
    ]
    return align(head, cells)


def _sums(found: dict[str, Any]) -> list[str]:
    search, report, cache = found["search"], found["report"], found["teacher_cache"]
    low, middle, high = search["hours"]
    count = found["rungs"][0]["entrants"]
    return [
        f"all {count} to the end: {search['exhaustive_hours']:,.4g} hours, "
        f"{search['exhaustive_hours'] * found['gpus']:,.0f} GPU-hours",
        f"the search: {search['share_of_tokens']:.1%} of the tokens, {middle:,.4g} hours "
        f"({low:,.4g}–{high:,.4g}, by who goes on), {middle * found['gpus']:,.0f} GPU-hours",
        f"by the report's {REPORT_HOURS[0]:g}–{REPORT_HOURS[1]:g} hours a run: {count} runs take "
        f"{_days(report['exhaustive_hours'])}, the search {_days(report['hours'])}: "
        f"{_days(report['saved_hours'])} saved",
        f"a cached teacher (k = {cache['k']}) would take {cache['bytes'] / 1e12:.3g} TB and one "
        f"pass of {cache['hours']:.3g} hours",
    ]


def _days(hours: Sequence[float]) -> str:
    low, high = hours
    return f"{low:,.0f}–{high:,.0f} hours ({low / 24:.1f}–{high / 24:.1f} days)"
