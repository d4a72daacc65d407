"""The drawings of a search; colour and shape of a candidate say what became of it."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

from markupsafe import Markup

from nemo_bielik.compare import drawings
from nemo_bielik.compare.panels import Panel
from nemo_bielik.report import svg
from nemo_bielik.report.curves import Curve, loss_chart
from nemo_bielik.report.wording import count, listed, number
from nemo_bielik.search.verdicts import SELECTED, STOPPED, SUB_OPTIMAL, UNSTABLE

_WIDTH, _WIDE = 466.0, 920.0
_ROW, _TOP = 24.0, 30.0
#: The CSS class and the mark of each verdict.
KINDS = {SELECTED: "selected", SUB_OPTIMAL: "sub-optimal", UNSTABLE: "unstable", STOPPED: "stopped"}


def kind_of(row: dict[str, Any]) -> str:
    """Return the CSS class of a candidate's verdict."""
    return KINDS[row["verdict"]["word"]]


def loss_panel(found: dict[str, Any]) -> Panel:
    """Draw the held-out curves of all trials together (the report's Figure 1), and training's."""
    lines = []
    for row in found["candidates"]:
        for trial in row["trials"]:
            hint = f"{row['name']}, seed {trial['seed']}"
            curves = trial["curves"]
            # right after the cut the KL is so high that the rest would be a flat line
            held_out = [(x, y) for x, y in curves["validation"] if x > 0 and y is not None]
            training = [(x, y) for x, y in curves["training"]]
            lines.append(Curve(kind_of(row), "training", training, hint=f"{hint}: training"))
            lines.append(Curve(kind_of(row), "mean", held_out, True, f"{hint}: held out"))
    lines = [line for line in lines if line.points]
    drawing = loss_chart(lines, "loss curves of all trials", _WIDE, 320.0)
    remark = "Strong: KL on held-out text; faint: training, in means. All read the same text."
    return Panel("Loss curves", drawing, legend(found), remark)


def pareto_panel(found: dict[str, Any]) -> Panel:
    """Draw time a token against KL after the first rung, where all had the same tokens."""
    after = found["rounds"][1]
    points = [
        drawings.Point(
            row["name"],
            kind_of(row),
            1e3 * row["seconds_per_token"],
            fmean(after["kl"][row["name"]]),
            f"{row['name']}: KL {fmean(after['kl'][row['name']]):.4g}",
        )
        for row in found["candidates"]
        if row["name"] in after["order"]
    ]
    device = found["settings"]["limits"]["device"]
    across = svg.Scale(*_around([p.x for p in points]), 58.0, _WIDTH - 60)
    up = svg.Scale(*_around([p.y for p in points]), 270.0, 14.0)
    words = f"ms a token on one {device}, planned"
    heading = f"KL after {count(after['tokens'])} tokens against speed"
    ticks = (drawings.axis_number, drawings.axis_number)
    drawing = drawings.scatter(points, heading, _WIDTH, (across, up), ticks, words)
    fronts = [
        f"after {one['name']} {listed(one['pareto_front'])}"
        for one in found["rounds"]
        if one["step"]
    ]
    remark = f"Down and left is better. On the front, memory counted too: {'; '.join(fronts)}."
    return Panel(heading, drawing, legend(found), remark)


def cut_panel(found: dict[str, Any]) -> Panel:
    """Draw KL right after the cut and where each trial ended."""
    rows = [
        drawings.Dumbbell(row["name"], kind_of(row), before, after)
        for row in found["candidates"]
        if (before := mean(row, "kl_after_cut")) and (after := mean(row, "kl"))
    ]
    figures = [figure for row in rows for figure in (row.before, row.after)]
    scale = partial(svg.Scale, min(figures) / 1.1, max(figures) * 1.1, is_log=True)
    text = partial(number, digits=3)
    heading = "KL right after the cut, and where each ended"
    drawing = drawings.dumbbells(
        rows, heading, _width(found), scale, text, drawings.axis_number, min(figures)
    )
    return Panel(heading, drawing, legend(found), "Logarithmic; the dashed line is the lowest.")


def timeline_panel(found: dict[str, Any]) -> Panel:
    """Draw how far each candidate trained; what was saved against the whole run is hatched."""
    seeds = max(len(found["settings"]["seeds"]), 1)
    whole = found["cost"]["exhaustive_tokens"] / found["rungs"][0]["entrants"]
    rows = [
        drawings.Bar(row["name"], kind_of(row), whole, row["tokens"], count(row["tokens"]))
        for row in found["candidates"]
        if row["trials"]
    ]
    drawing = drawings.bars(rows, "tokens trained", _width(found))
    last = found["rungs"][-1]["last_step"]
    ends = [f"{seeds * whole * rung['last_step'] / last / seeds:,.0f}" for rung in found["rungs"]]
    remark = f"Hatched: not spent. Rungs end after {', '.join(ends)} tokens."
    return Panel("Timeline: tokens that each was given", drawing, legend(found), remark)


def ranks_panel(found: dict[str, Any]) -> Panel:
    """Draw every candidate's rank from round to round."""
    rounds = found["rounds"]
    kinds = {row["name"]: kind_of(row) for row in found["candidates"]}
    most = max(len(one["order"]) for one in rounds)
    label = drawings.label_width(kinds)
    across = svg.Scale(0, max(len(rounds) - 1, 1), label + 30, _width(found) - 40)
    places = {
        name: [
            (n, one["order"].index(name)) for n, one in enumerate(rounds) if name in one["order"]
        ]
        for name in rounds[0]["order"]
    }
    heads = [
        svg.text(across(n), 12, one["name"], class_="middle faint") for n, one in enumerate(rounds)
    ]
    drawn = [_rank_line(name, kinds[name], some, across) for name, some in places.items()]
    drawing = svg.picture(
        _width(found), _TOP + _ROW * most, "ranks", svg.group(*heads, class_="axis"), *drawn
    )
    taus = [one["kendall_to_round_before"] for one in rounds[1:]]
    remark = f"Kendall’s τ from round to round: {', '.join(number(tau, 2) for tau in taus)}."
    return Panel("Ranks from round to round", drawing, legend(found), remark)


def _rank_line(
    name: str, kind: str, places: Sequence[tuple[int, int]], across: svg.Scale
) -> Markup:
    points = [(across(n), _TOP + _ROW * (place + 0.3)) for n, place in places]
    marks = [
        svg.marker(kind, x, y, 4.0, f"{name}: rank {place + 1}")
        for (x, y), (_, place) in zip(points, places, strict=True)
    ]
    label = svg.text(across.start - 12, points[0][1] + 4, name, class_="end")
    return svg.group(label, svg.polyline(points, class_="curve mean"), *marks, class_=kind)


def _width(found: dict[str, Any]) -> float:
    """Return the width of a drawing with names before its rows, which may be long."""
    names = (row["name"] for row in found["candidates"])
    return _WIDTH + drawings.label_width(names) - drawings.LEAST_LABEL


def legend(found: dict[str, Any]) -> Markup:
    """Return the verdicts that there are."""
    words = dict.fromkeys(row["verdict"]["word"] for row in found["candidates"])
    return svg.tag("p", *(drawings.key(KINDS[word], word) for word in words), class_="legend")


def mean(row: dict[str, Any], name: str) -> float | None:
    """Return a candidate's figure, the mean over seeds; None if one lacks it."""
    values = [trial[name] for trial in row["trials"]]
    return fmean(values) if values and None not in values else None


def _around(values: Sequence[float]) -> tuple[float, float]:
    room = 0.08 * (max(values) - min(values)) or 0.05 * max(values)
    return min(values) - room, max(values) + room
