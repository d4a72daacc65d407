"""The drawings of a comparison with their headings, legends and remarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup

from nemo_bielik.compare import drawings
from nemo_bielik.compare.ranking import KIND_NAMES, STRUCTURED, Ranking
from nemo_bielik.report import svg
from nemo_bielik.report.wording import count, duration, perplexity, size_bytes

_PANEL = 466.0
_SCATTER_LEFT, _SCATTER_TOP, _SCATTER_BOTTOM = 52.0, 14.0, 270.0
#: Room on either side of a logarithmic axis, as a factor.
_ROOM = 1.06
_LEAST_SECONDS = 1e-3


@dataclass(frozen=True)
class Panel:
    """A drawing with its heading, a legend and a remark."""

    heading: str
    drawing: Markup
    keys: Markup
    remark: str = ""


def kept_panel(ranking: Ranking) -> Panel:
    """Draw what every contender keeps, best recovered first."""
    rows = [drawings.Dumbbell(s.name, s.kind, s.before, s.after) for s in ranking.standings]
    figures = [figure for s in ranking.standings for figure in (s.before, s.after)]
    if ranking.by_share:
        heading, original = "How much of the original is kept", 100.0
        scale = partial(svg.Scale, *drawings.share_domain(figures))
        remark = "0 % is guessing, 100 % the original; the mean of what was asked."
    else:
        heading, original = "Perplexity, as a multiple of the original’s", 1.0
        scale = partial(svg.Scale, *_around([*figures, original]), is_log=True)
        remark = "Lower is better; a logarithmic scale. No tasks were evaluated."
    drawing = drawings.dumbbells(rows, heading, _PANEL, scale, ranking.text, ranking.tick, original)
    return Panel(heading, drawing, _legend(ranking, moments=True), remark)


def perplexity_panel(found: dict[str, Any], ranking: Ranking) -> Panel:
    """Draw every contender's perplexity, in the order of the first drawing."""
    original = found["model"]["perplexity"]
    rows = [
        drawings.Dumbbell(
            s.name, s.kind, s.row["pruned"]["perplexity"], s.row["recovered"]["perplexity"]
        )
        for s in ranking.standings
    ]
    domain = _around([original, *(row.before for row in rows), *(row.after for row in rows)])
    scale = partial(svg.Scale, *domain, is_log=True)
    texts = (perplexity, drawings.axis_number)
    drawing = drawings.dumbbells(rows, "perplexity", _PANEL, scale, *texts, original)
    remark = "Lower is better; a logarithmic scale."
    return Panel("Perplexity", drawing, _legend(ranking, moments=True), remark)


def size_panel(found: dict[str, Any], ranking: Ranking) -> Panel:
    """Draw the weights that every contender stores, and those that are not zero."""
    rows = [
        drawings.Bar(
            s.name,
            s.kind,
            s.row["parameters"],
            s.row["nonzero_parameters"],
            count(s.row["nonzero_parameters"]),
        )
        for s in ranking.standings
    ]
    lines = (
        ("target", found["target_parameters"]),
        ("original", found["model"]["parameters"]),
    )
    drawing = drawings.bars(rows, "weights stored and not zero", _PANEL, lines)
    zeros = any(s.kind != STRUCTURED for s in ranking.standings)
    remark = (
        "A zeroed weight is still stored: without kernels and file formats made for zeros, such a "
        "model is as large and as slow as the original."
    )
    keys = _legend(ranking, zeros=zeros)
    return Panel("Weights stored, and not zero", drawing, keys, remark if zeros else "")


def cost_panel(ranking: Ranking) -> Panel:
    """Draw the seconds of scoring and pruning against the recovered result."""
    points = [
        drawings.Point(
            s.name,
            s.kind,
            max(s.seconds, _LEAST_SECONDS),
            s.after,
            f"{s.name}: {duration(s.seconds)}, {ranking.text(s.after)} after recovery",
        )
        for s in ranking.standings
    ]
    across = svg.Scale(
        *_around([point.x for point in points]), _SCATTER_LEFT, _PANEL - 86, is_log=True
    )
    result = "what is kept" if ranking.by_share else "perplexity"
    heading = f"What scoring and pruning take, and {result} after recovery"
    drawing = drawings.scatter(
        points,
        heading,
        _PANEL,
        (across, _upwards(ranking, [point.y for point in points])),
        (drawings.axis_number, ranking.tick),
        "seconds, logarithmic",
    )
    return Panel(heading, drawing, _legend(ranking), "Up and to the left is better.")


def memory_panel(ranking: Ranking) -> Panel:
    """Draw the memory that scoring or pruning adds, whichever is more."""
    rows = [
        drawings.Bar(
            s.name,
            s.kind,
            s.row["added_bytes"],
            s.row["added_bytes"],
            size_bytes(s.row["added_bytes"]),
        )
        for s in ranking.standings
    ]
    heading = "Memory that scoring or pruning adds"
    return Panel(heading, drawings.bars(rows, heading, _PANEL), _legend(ranking))


def _upwards(ranking: Ranking, figures: list[float]) -> svg.Scale:
    """Return the scale of results, better ones higher."""
    if not ranking.by_share:
        return svg.Scale(*_around(figures), _SCATTER_TOP, _SCATTER_BOTTOM, is_log=True)
    room = max(0.08 * (max(figures) - min(figures)), 0.5)
    return svg.Scale(min(figures) - room, max(figures) + room, _SCATTER_BOTTOM, _SCATTER_TOP)


def _around(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / _ROOM, max(values) * _ROOM


def _legend(ranking: Ranking, *, moments: bool = False, zeros: bool = False) -> Markup:
    """Return the kinds that were compared and whatever else a drawing tells apart."""
    kinds = list(dict.fromkeys(standing.kind for standing in ranking.standings))
    keys = [drawings.key(kind, KIND_NAMES[kind]) for kind in kinds]
    if moments:
        keys += [
            drawings.key(kinds[0], "outline: right after the cut", outline=True),
            drawings.key(kinds[0], "filled: recovered"),
            svg.tag("span", "dashed: the original", class_="key-item"),
        ]
    if zeros:
        keys.append(svg.tag("span", "hatched: stored zeros", class_="key-item"))
    return svg.tag("p", *keys, class_="legend")
