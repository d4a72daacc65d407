"""Dot plots: one row a question, one mark a kind of model, a thin line over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nemo_bielik.report import svg
from nemo_bielik.report.measures import Spread
from nemo_bielik.report.wording import NAMES, percent

_LABEL, _VALUE, _TOP, _BOTTOM = 150.0, 74.0, 22.0, 12.0
_ROW = 30.0


@dataclass(frozen=True)
class Row:
    """One line of the plot: what is asked, and the figure of each kind in percent.

    `value` is printed at the right end; `name` identifies the row.
    """

    name: str
    label: str
    marks: dict[str, Spread]
    value: str = ""


def dot_plot(rows: Sequence[Row], label: str, width: float, low: float, high: float) -> Markup:
    """Draw the rows over a scale from `low` to `high` percent."""
    has_values = any(row.value for row in rows)
    right = width - (_VALUE if has_values else 26.0)
    scale = svg.Scale(low, high, _LABEL, right)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    shown = [_row(row, scale, _TOP + _ROW * (n + 0.5), width) for n, row in enumerate(rows)]
    return svg.picture(width, height, label, _grid(scale, height), *shown)


def domain(rows: Sequence[Row], low: float, high: float) -> tuple[float, float]:
    """Widen low–high so that every mark and seed lies within, at a multiple of ten."""
    ends = [end for row in rows for s in row.marks.values() for end in (s.low, s.high)]
    lowest, highest = min([low, *ends]), max([high, *ends])
    return 10.0 * (lowest // 10), -10.0 * (-highest // 10)


def _row(row: Row, scale: svg.Scale, y: float, width: float) -> Markup:
    parts = [
        svg.text(_LABEL - 14, y + 4, row.label, class_="end"),
        svg.segment(scale.start, y, scale.end, y, class_="rail"),
    ]
    parts += [_mark(kind, spread, scale, y) for kind, spread in row.marks.items()]
    if row.value:
        parts.append(svg.text(width - 2, y + 5, row.value, class_="end strong"))
    return svg.group(*parts, class_="row", data_row=row.name)


def _mark(kind: str, spread: Spread, scale: svg.Scale, y: float) -> Markup:
    hint = f"{NAMES.get(kind, kind)}: {percent(spread.mean)}"
    if len(spread.values) > 1:
        hint += f" ({percent(spread.low)} to {percent(spread.high)}, {len(spread.values)} seeds)"
    whisker = svg.segment(scale(spread.low), y, scale(spread.high), y, class_="whisker")
    return svg.group(whisker, svg.marker(kind, scale(spread.mean), y, hint=hint), class_=kind)


def _grid(scale: svg.Scale, height: float) -> Markup:
    parts = []
    for value in scale.ticks(5):
        x = scale(value)
        parts.append(svg.segment(x, _TOP - 4, x, height - _BOTTOM, class_="grid"))
        parts.append(svg.text(x, 12, f"{value:.0f} %".replace("-", "−"), class_="middle"))
    return svg.group(*parts, class_="axis")
