"""Dot plots: one row a question, one mark a kind of model, a thin line over its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from markupsafe import Markup

from nemo_bielik.report import svg
from nemo_bielik.report.wording import NAMES, percent

_LABEL, _VALUE, _TOP, _BOTTOM = 150.0, 74.0, 22.0, 12.0
_ROW, _APART = 30.0, 13.0
_LONGEST_LABEL = 18


class Extent(Protocol):
    """A figure and how far it reaches, over seeds or resamples; `note` says that in words."""

    @property
    def mean(self) -> float:
        """The figure."""

    @property
    def low(self) -> float:
        """The lower end."""

    @property
    def high(self) -> float:
        """The upper end."""

    @property
    def note(self) -> str:
        """What the ends are."""


@dataclass(frozen=True)
class Row:
    """One line of the plot: what is asked, and the figure of each kind in percent.

    `value` is printed at the right end; `name` identifies the row.
    """

    name: str
    label: str
    marks: Mapping[str, Extent]
    value: str = ""


@dataclass(frozen=True)
class Looks:
    """What each mark of a row is called and which kind it is drawn as; without an entry, itself.

    `apart` draws a row's marks on lines of their own, so that their extents can be told apart.
    """

    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    kinds: Mapping[str, str] = field(default_factory=dict)
    apart: bool = False


def dot_plot(
    rows: Sequence[Row], label: str, width: float, low: float, high: float, looks: Looks = Looks()
) -> Markup:
    """Draw the rows over a scale from `low` to `high` percent."""
    has_values = any(row.value for row in rows)
    right = width - (_VALUE if has_values else 26.0)
    scale = svg.Scale(low, high, _LABEL, right)
    most = max((len(row.marks) for row in rows), default=1) if looks.apart else 1
    tall = _ROW + _APART * (most - 1)
    height = _TOP + tall * len(rows) + _BOTTOM
    shown = [_row(row, scale, _TOP + tall * (n + 0.5), width, looks) for n, row in enumerate(rows)]
    return svg.picture(width, height, label, _grid(scale, height), *shown)


def domain(rows: Sequence[Row], low: float, high: float) -> tuple[float, float]:
    """Widen low–high so that every mark and seed lies within, at a multiple of ten."""
    ends = [end for row in rows for s in row.marks.values() for end in (s.low, s.high)]
    lowest, highest = min([low, *ends]), max([high, *ends])
    return 10.0 * (lowest // 10), -10.0 * (-highest // 10)


def _row(row: Row, scale: svg.Scale, y: float, width: float, looks: Looks) -> Markup:
    parts = [
        svg.text(_LABEL - 14, y + 4, _short(row.label), class_="end"),
        svg.segment(scale.start, y, scale.end, y, class_="rail"),
    ]
    step = _APART * looks.apart
    top = y - step * (len(row.marks) - 1) / 2
    for place, (key, extent) in enumerate(row.marks.items()):
        kind = looks.kinds.get(key, key)
        hint = f"{looks.names.get(key, key)}: {percent(extent.mean)}{extent.note}"
        parts.append(_mark(kind, extent, scale, top + step * place, hint))
    if row.value:
        parts.append(svg.text(width - 2, y + 5, row.value, class_="end strong"))
    return svg.group(svg.title(row.label), *parts, class_="row", data_row=row.name)


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _mark(kind: str, extent: Extent, scale: svg.Scale, y: float, hint: str) -> Markup:
    whisker = svg.segment(scale(extent.low), y, scale(extent.high), y, class_="whisker")
    return svg.group(whisker, svg.marker(kind, scale(extent.mean), y, hint=hint), class_=kind)


def _grid(scale: svg.Scale, height: float) -> Markup:
    parts = []
    for value in scale.ticks(5):
        x = scale(value)
        parts.append(svg.segment(x, _TOP - 4, x, height - _BOTTOM, class_="grid"))
        parts.append(svg.text(x, 12, f"{value:.0f} %".replace("-", "−"), class_="middle"))
    return svg.group(*parts, class_="axis")
