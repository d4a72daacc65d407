"""The figures that head the page; ``data-figure`` names each of them there."""

from dataclasses import dataclass

from nemo_bielik.planner.parameters import (
    count_one_embedding,
    count_parameters,
    reduction_percent,
)
from nemo_bielik.report import wording
from nemo_bielik.report.gather import CONTROLS, RunData
from nemo_bielik.report.measures import PERPLEXITY, Scores
from nemo_bielik.runs import DISTILLED, PRUNED, TEACHER


@dataclass(frozen=True)
class Figure:
    """One figure: a short text, a smaller remark, and the name that identifies it."""

    name: str
    text: str
    remark: str = ""
    label: str = ""


def reduction(data: RunData) -> float | None:
    """Return by how many percent the pruned model is smaller, as the summary tells or counts."""
    told = data.summary.get("params_reduction_percent")
    if isinstance(told, int | float):
        return float(told)
    source, target = data.arch(TEACHER), data.arch(PRUNED)
    return reduction_percent(source, target) if source and target else None


def key_figures(data: RunData, scores: Scores) -> list[Figure]:
    """Return the figures that head the page."""
    found = [_reduction_figure(data), _recovery_figure(scores), *_control_figures(scores)]
    seconds = data.summary.get("wall_seconds") or sum(s.manifest.wall_seconds for s in data.stages)
    if seconds:
        peak = data.summary.get("peak_rss_bytes")
        remark = f"peak memory {wording.memory(peak)}" if peak else "all stages together"
        found.append(Figure("wall_seconds", wording.duration(float(seconds)), remark, "whole run"))
    return [figure for figure in found if figure]


def _reduction_figure(data: RunData) -> Figure | None:
    value = reduction(data)
    if value is None:
        return None
    source, target = data.arch(TEACHER), data.arch(PRUNED)
    remark = ""
    if source and target:
        counts = {
            "one embedding": (count_one_embedding(source), count_one_embedding(target)),
            "on disk": (count_parameters(source), count_parameters(target)),
        }
        # The summary's figure may follow either count: name the one that it follows.
        name = min(counts, key=lambda name: abs(-percent_change(*counts[name]) - value))
        remark = f"{' → '.join(map(wording.count, counts[name]))}, {name}"
    return Figure("params_reduction_percent", wording.percent(-value), remark, "parameters")


def _recovery_figure(scores: Scores) -> Figure | None:
    recovered, pruned = scores.recovered(DISTILLED), scores.recovered(PRUNED)
    if recovered:
        remark = f"from {wording.percent(pruned.mean)} after the cut" if pruned else ""
        text = wording.percent(recovered.mean)
        return Figure("recovery_percent", text, remark, "recovered by distillation")
    closed = scores.gap_closed()
    if closed is None:
        return None
    means = [scores.by_kind[kind][PERPLEXITY].mean for kind in (TEACHER, PRUNED, DISTILLED)]
    remark = "perplexity " + " → ".join(map(wording.perplexity, means))
    return Figure("gap_closed", wording.percent(closed), remark, "of the lost ground taken back")


def _control_figures(scores: Scores) -> list[Figure]:
    found = []
    for kind in CONTROLS:
        recovered, loss = scores.recovered(kind), scores.get(kind, PERPLEXITY)
        remark = f"perplexity {wording.perplexity(loss.mean)}" if loss else ""
        if recovered:
            text, label = wording.percent(recovered.mean), f"control: {wording.NAMES[kind]}"
            found.append(Figure(f"{kind}.recovery", text, remark, label))
    return found


def percent_change(before: int, after: int) -> float:
    """Return how much larger (or, negative, smaller) `after` is, in percent."""
    return 100 * (after / before - 1)
