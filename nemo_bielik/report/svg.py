"""Pieces of inline SVG: escaped elements, scales with round ticks, the marks of each model.

Colours are CSS variables of the page (``var(--distilled)``), so a drawing follows light and dark.
Every kind of model has a shape of its own beside its colour.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED, TEACHER

HATCH = "url(#hatch)"
Child = str | Markup


def tag(name: str, *children: Child, **attributes: object) -> Markup:
    """Return an element; text and attribute values are escaped, ``class_`` means ``class``."""
    words = [escape(name)]
    for key, value in attributes.items():
        if value is not None:
            shown = _rounded(value) if isinstance(value, float) else str(value)
            words.append(Markup('{}="{}"').format(key.rstrip("_").replace("_", "-"), shown))
    inner = Markup("").join(children)
    return Markup("<{}>{}</{}>").format(Markup(" ").join(words), inner, name)


def group(*children: Child, **attributes: object) -> Markup:
    """Return a ``<g>``."""
    return tag("g", *children, **attributes)


def picture(width: float, height: float, label: str, *children: Child) -> Markup:
    """Return an ``<svg>`` as wide as its place; `label` is what a screen reader says."""
    return tag("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    """Return a line of text with its baseline at y."""
    return tag("text", words, x=x, y=y, **attributes)


def rect(x: float, y: float, width: float, height: float, **attributes: object) -> Markup:
    """Return a rectangle."""
    return tag("rect", x=x, y=y, width=max(width, 0.0), height=height, **attributes)


def segment(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def polyline(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """Return a line through points."""
    path = " ".join(f"{_rounded(x)},{_rounded(y)}" for x, y in points)
    return tag("polyline", points=path, fill="none", **attributes)


def title(words: str) -> Markup:
    """Return what a pointer resting on the parent shows."""
    return tag("title", words)


@dataclass(frozen=True)
class Scale:
    """A map from values to places on the page, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high, here = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        share = (here - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Return about `wanted` round values within the scale."""
        if self.is_log and len(ticks := _log_ticks(self.low, self.high, wanted)) > 2:
            return ticks
        step = round_step((self.high - self.low) / wanted)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [n * step for n in range(first, last + 1)]


def round_step(rough: float) -> float:
    """Return the nearest of 1, 2 and 5 times a power of ten that is at least `rough`."""
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)


def marker(kind: str, x: float, y: float, size: float = 5.5, hint: str = "") -> Markup:
    """Return the mark of a kind of model, with `hint` on hover."""
    draw = _SHAPES.get(kind, _circle)
    inner = draw(x, y, size)
    return group(title(hint) if hint else "", inner, class_=f"mark {kind}")


def legend_mark(kind: str) -> Markup:
    """Return a small picture of a kind's mark, to stand in a line of text."""
    return tag("svg", marker(kind, 8, 8), viewBox="0 0 16 16", class_="key", aria_hidden="true")


def _circle(x: float, y: float, size: float) -> Markup:
    return tag("circle", cx=x, cy=y, r=size)


def _polygon(*corners: tuple[float, float]) -> Callable[[float, float, float], Markup]:
    def draw(x: float, y: float, size: float) -> Markup:
        points = " ".join(f"{_rounded(x + a * size)},{_rounded(y + b * size)}" for a, b in corners)
        return tag("polygon", points=points)

    return draw


def _cross(x: float, y: float, size: float) -> Markup:
    arm = size * 0.8
    return group(
        segment(x - arm, y - arm, x + arm, y + arm), segment(x - arm, y + arm, x + arm, y - arm)
    )


def _bar(x: float, y: float, size: float) -> Markup:
    return segment(x, y - size * 1.2, x, y + size * 1.2)


_SQUARE = _polygon((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
_TRIANGLE = _polygon((0, -1.05), (1.1, 0.9), (-1.1, 0.9))
_SHAPES: dict[str, Callable[[float, float, float], Markup]] = {
    TEACHER: _polygon((0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)),
    PRUNED: _cross,
    DISTILLED: _circle,
    LABEL_TRAINED: _SQUARE,
    FROM_SCRATCH: _TRIANGLE,
    "baseline": _bar,
    "structured": _circle,
    "unstructured": _TRIANGLE,
    "pattern": _SQUARE,
    "selected": _polygon((0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)),
    "sub-optimal": _SQUARE,
    "unstable": _cross,
    "extra1": _SQUARE,
    "extra2": _polygon((0, 1.05), (1.1, -0.9), (-1.1, -0.9)),
    "extra3": _TRIANGLE,
    "extra4": _polygon((-1.2, 0), (0, -0.75), (1.2, 0), (0, 0.75)),
}


def _log_ticks(low: float, high: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) <= wanted + 2:
            return ticks
    return _thinned(ticks, wanted)


def _thinned(ticks: Sequence[float], wanted: int) -> list[float]:
    return list(ticks[:: max(1, math.ceil(len(ticks) / wanted))])


def _rounded(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
