"""``bielik search --plan``: what a search would cost, candidate by candidate, from sizes alone.

``bielik search --preset paper --plan`` plans the report's own: Bielik-11B-v3 on 2×8 H200. An
estimate by `planner/training_time.py`, which no GPU of ours has confirmed yet.
"""

import json as json_format
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch
from nemo_bielik.distill.cache_format import RecordLayout
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.flops import forward_flops_per_token
from nemo_bielik.planner.parameters import reduction_percent
from nemo_bielik.planner.specs import resolve_arch
from nemo_bielik.planner.training_time import EFFICIENCY
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.halving import Schedule
from nemo_bielik.search.limits import cost, distillation
from nemo_bielik.search.plan_words import plan_in_words
from nemo_bielik.search.settings import SearchSettings

#: Hours that the report gives for one candidate on 2×8 H200 (its section 5.2).
REPORT_HOURS = (48.0, 72.0)
REPORT_CLUSTER = "2x8xH200"


@dataclass(kw_only=True)
class SearchPlanConfig(SearchSettings):
    """What a search would cost on `limits.cluster`; nothing is run."""

    plan: bool = field(default=True, metadata={"help": "plan instead of searching"})
    source: str = field(
        default=BIELIK_11B_V3.name, metadata={"help": "the original: a preset or a directory"}
    )
    teacher: Literal["cached", "live"] = field(
        default="live", metadata={"help": "as of a search; a cache of billions of tokens is huge"}
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})

    @property
    def fills_cluster(self) -> bool:
        """A plan is for all of `limits.cluster`, in the fastest layout if none is set for it."""
        return True


def print_plan(config: SearchPlanConfig) -> int:
    """Print the plan; return 1 if no candidate is within the limits."""
    found = plan(config, resolve_arch(config.source))
    print(json_format.dumps(found, indent=2) if config.json else plan_in_words(found))
    return 0 if found["rungs"] else 1


def plan(
    settings: SearchSettings, source: ModelArch, candidates: Sequence[Candidate] | None = None
) -> dict[str, Any]:
    """Return what each candidate, the search and as many full runs would cost.

    Hours are of the whole cluster, None where a trial takes another number of GPUs. Who goes on is
    not known, so the search's hours are those of candidates of mean cost, with the cheapest and the
    dearest as ends.
    """
    candidates = settings.choose(source) if candidates is None else candidates
    rows = [_row(candidate, source, settings) for candidate in candidates]
    kept = [row for row in rows if not row["breaches"]]
    schedule = settings.schedule(len(kept)) if kept else None
    names = {candidate.name for candidate in candidates}
    return {
        "source": source.name,
        "teacher": settings.teacher,
        "cluster": settings.limits.cluster,
        "gpus": Cluster.parse(settings.limits.cluster).gpus,
        "tokens": settings.recovery.tokens,
        "seeds": len(settings.seeds),
        "device": settings.limits.device,
        "context": settings.limits.context,
        "candidates": rows,
        "left_out": [n for n in EXPERIMENTS if settings.preset == "paper" and n not in names],
        "rungs": schedule.rows() if schedule else [],
        "judged_steps": _judged_steps(schedule, settings) if schedule else 0,
        "search": _search(schedule, settings, [row["hours"] for row in kept]) if schedule else None,
        "report": _report(schedule, settings, source) if schedule else None,
        "teacher_cache": _cache(source, settings) if schedule else None,
    }


def _row(candidate: Candidate, source: ModelArch, settings: SearchSettings) -> dict[str, Any]:
    return {
        "name": candidate.name,
        **asdict(cost(candidate.arch, settings.limits)),
        "reduction_percent": reduction_percent(source, candidate.arch),
        **_on_cluster(candidate, source, settings),
        "breaches": [asdict(breach) for breach in settings.breaches(candidate, source)],
    }


def _on_cluster(
    candidate: Candidate, source: ModelArch, settings: SearchSettings
) -> dict[str, Any]:
    """Return layout, speed and hours of one candidate's whole distillation."""
    names = ("layout", "tokens_per_second", "hours", "gpu_hours")
    if not settings.fills_cluster:
        return dict.fromkeys(names)
    run, cluster = settings.recovery, settings.limits.cluster
    best = distillation(candidate.arch, settings.beside(source), run, cluster)
    hours, layout = run.tokens / best.tokens_per_second / 3600, best.layout
    words = f"TP{layout.tensor} PP{layout.pipeline} DP{layout.data}"
    figures = (words, best.tokens_per_second, hours, hours * Cluster.parse(cluster).gpus)
    return dict(zip(names, figures, strict=True))


def _judged_steps(schedule: Schedule, settings: SearchSettings) -> int:
    """Return of how many steps of the first rung spikes are looked for: the first have no past."""
    first = settings.recovery.optim.warmup_iters + settings.judge.window
    return max(0, schedule.rungs[0].last_step - first)


def _search(
    schedule: Schedule, settings: SearchSettings, hours: Sequence[float | None]
) -> dict[str, Any]:
    """Return tokens and hours of all rungs and of all to the end, every seed counted.

    Hours are those of the cheapest, the mean and the dearest entrants.
    """
    tokens = settings.recovery.tokens / schedule.rungs[-1].last_step * len(settings.seeds)
    found: dict[str, Any] = {
        "tokens": round(schedule.steps * tokens),
        "exhaustive_tokens": round(schedule.exhaustive_steps * tokens),
        "share_of_tokens": schedule.share,
        "hours": None,
        "exhaustive_hours": None,
    }
    ordered = sorted(taken * len(settings.seeds) for taken in hours if taken is not None)
    if not ordered:
        return found
    whole, mean = schedule.rungs[-1].last_step, sum(ordered) / len(ordered)
    parts = [((rung.last_step - rung.first_step) / whole, rung.entrants) for rung in schedule.rungs]
    return found | {
        "hours": [
            sum(part * sum(ordered[:entrants]) for part, entrants in parts),
            sum(part * entrants * mean for part, entrants in parts),
            sum(part * sum(ordered[::-1][:entrants]) for part, entrants in parts),
        ],
        "exhaustive_hours": schedule.rungs[0].entrants * mean,
    }


def _report(
    schedule: Schedule, settings: SearchSettings, source: ModelArch
) -> dict[str, Any] | None:
    """Return the same share of as many full runs as the report's 48 to 72 hours each.

    None of another original, cluster or number of tokens than the report's.
    """
    asked = (source, settings.limits.cluster, settings.recovery.tokens)
    if asked != (BIELIK_11B_V3, REPORT_CLUSTER, minitron_7b.recovery().tokens):
        return None
    runs = schedule.rungs[0].entrants * len(settings.seeds)
    exhaustive = [runs * hours for hours in REPORT_HOURS]
    return {
        "runs": runs,
        "run_hours": REPORT_HOURS,
        "exhaustive_hours": exhaustive,
        "hours": [schedule.share * hours for hours in exhaustive],
        "saved_hours": [(1 - schedule.share) * hours for hours in exhaustive],
    }


def _cache(source: ModelArch, settings: SearchSettings) -> dict[str, Any]:
    """Return what caches of the teacher take, one a seed: bytes, and the hours of its passes."""
    layout = RecordLayout(
        k=min(settings.cache_k, source.vocab_size),
        vocab_size=source.vocab_size,
        dtype="float16",
        temperatures=(1.0,),
    )
    run, cluster = settings.recovery, Cluster.parse(settings.limits.cluster)
    tokens = run.tokens * len(settings.seeds)
    flops = forward_flops_per_token(source, run.sequence_length) * tokens
    reached = EFFICIENCY * cluster.device.bf16_flops * cluster.gpus
    return {
        "k": layout.k,
        "bytes": layout.bytes_per_token * tokens,
        "hours": flops / reached / 3600 if settings.fills_cluster else None,
    }
