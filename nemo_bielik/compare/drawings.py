"""Drawings of a comparison: dumbbells, sizes, and cost against result.

Shape and colour say the kind of a contender; an outline is right after the cut, a filled mark
after recovery.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nemo_bielik.report import svg

LEAST_LABEL, _VALUE, _TOP, _BOTTOM, _ROW = 118.0, 68.0, 22.0, 10.0, 28.0
_MARK = 5.5
#: Width of a letter of a label at most, and the height of its line.
_LETTER, _LINE = 6.7, 13.0


@dataclass(frozen=True)
class Dumbbell:
    """One contender right after the cut and after recovery."""

    name: str
    kind: str
    before: float
    after: float


@dataclass(frozen=True)
class Bar:
    """One contender's amount, and the part of it that is really in use."""

    name: str
    kind: str
    whole: float
    used: float
    value: str


@dataclass(frozen=True)
class Point:
    """One contender's cost and its result."""

    name: str
    kind: str
    x: float
    y: float
    hint: str


def label_width(names: Iterable[str]) -> float:
    """Return the room that the longest name of a row takes, `LEAST_LABEL` at least."""
    return max([LEAST_LABEL, *(_LETTER * len(name) + 20 for name in names)])


def dumbbells(
    rows: Sequence[Dumbbell],
    label: str,
    width: float,
    scale: Callable[[float, float], svg.Scale],
    text: Callable[[float], str],
    tick: Callable[[float], str],
    original: float,
) -> Markup:
    """Draw the rows over ``scale(left, right)``; a line marks what the original reaches."""
    places = scale(label_width(row.name for row in rows), width - 2 * _VALUE - 6)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    heads = [
        svg.text(width - _VALUE, 12, "cut", class_="end faint"),
        svg.text(width - 2, 12, "recovered", class_="end faint"),
    ]
    line = svg.segment(
        places(original), _TOP - 4, places(original), height - _BOTTOM, class_="original"
    )
    shown = [_dumbbell(row, places, _middle(n), width, text) for n, row in enumerate(rows)]
    return svg.picture(width, height, label, _columns(places, height, tick), line, *heads, *shown)


def _dumbbell(
    row: Dumbbell, scale: svg.Scale, y: float, width: float, text: Callable[[float], str]
) -> Markup:
    before, after = text(row.before), text(row.after)
    start = svg.marker(
        row.kind, scale(row.before), y, _MARK, f"{row.name} right after the cut: {before}"
    )
    end = svg.marker(row.kind, scale(row.after), y, _MARK, f"{row.name} recovered: {after}")
    return svg.group(
        svg.text(scale.start - 14, y + 4, row.name, class_="end"),
        svg.segment(scale.start, y, scale.end, y, class_="rail"),
        svg.segment(scale(row.before), y, scale(row.after), y, class_="whisker"),
        svg.group(start, class_="outline"),
        end,
        svg.text(width - _VALUE, y + 4, before, class_="end faint"),
        svg.text(width - 2, y + 5, after, class_="end strong"),
        class_=f"row {row.kind}",
        data_row=row.name,
    )


def bars(
    rows: Sequence[Bar], label: str, width: float, lines: Sequence[tuple[str, float]] = ()
) -> Markup:
    """Draw amounts from zero; what is stored but not used is hatched.

    At most two `lines` cross all rows, the smaller first: their names stand to either side.
    """
    longest = max([row.whole for row in rows] + [place for _, place in lines]) or 1.0
    scale = svg.Scale(0, longest, label_width(row.name for row in rows), width - 1.2 * _VALUE)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    marks = []
    for (name, place), side in zip(lines, ("end", None), strict=False):
        x = scale(place)
        marks.append(svg.segment(x, _TOP - 4, x, height - _BOTTOM, class_="original"))
        marks.append(svg.text(x, 12, name, class_=" ".join(filter(None, ("faint", side)))))
    shown = [_bar(row, scale, _middle(n), width) for n, row in enumerate(rows)]
    return svg.picture(width, height, label, *shown, *marks)


def _bar(row: Bar, scale: svg.Scale, y: float, width: float) -> Markup:
    start, used, whole = scale(0), scale(row.used), scale(row.whole)
    parts = [
        svg.text(start - 18, y + 4, row.name, class_="end"),
        svg.marker(row.kind, start - 8, y, 4.0),
        svg.rect(start, y - 7, used - start, 14.0, class_="amount"),
    ]
    if row.used < row.whole:
        parts.append(svg.rect(used, y - 7, whole - used, 14.0, class_="gone"))
    parts.append(svg.text(width - 2, y + 4, row.value, class_="end"))
    return svg.group(*parts, class_=f"row {row.kind}", data_row=row.name)


def scatter(
    points: Sequence[Point],
    label: str,
    width: float,
    scales: tuple[svg.Scale, svg.Scale],
    texts: tuple[Callable[[float], str], Callable[[float], str]],
    words: str,
) -> Markup:
    """Draw named points; `words` say what runs along x."""
    across, up = scales
    bottom = max(up.start, up.end)
    axis = []
    for value in up.ticks(5):
        y = up(value)
        axis.append(svg.segment(across.start, y, width, y, class_="grid"))
        axis.append(svg.text(across.start - 8, y + 4, texts[1](value), class_="end"))
    axis += [
        svg.text(across(value), bottom + 24, texts[0](value), class_="middle")
        for value in across.ticks(5)
    ]
    axis.append(svg.text(across.end, bottom + 40, words, class_="end"))
    named = zip(points, label_places(points, across, up, width), strict=True)
    marks = [_named(point, place, across(point.x), up(point.y)) for point, place in named]
    return svg.picture(width, bottom + 46, label, svg.group(*axis, class_="axis"), *marks)


def _named(point: Point, place: tuple[float, float], x: float, y: float) -> Markup:
    """Draw a mark and its label; a line leads to a label that had to move away."""
    left, top, right, bottom = _box(place, _LETTER * len(point.name))
    near = min(max(x, left), right), min(max(y, top), bottom)
    is_far = max(abs(near[0] - x), abs(near[1] - y)) > 2 * _MARK
    return svg.group(
        svg.segment(x, y, *near, class_="link") if is_far else "",
        svg.text(*place, point.name, class_="faint name"),
        svg.marker(point.kind, x, y, _MARK, point.hint),
        data_row=point.name,
    )


def label_places(
    points: Sequence[Point], across: svg.Scale, up: svg.Scale, width: float
) -> list[tuple[float, float]]:
    """Return where each label starts: beside its mark, on no other mark or label if possible."""
    marks = [(across(point.x), up(point.y)) for point in points]
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in marks]
    found = []
    for point, (x, y) in zip(points, marks, strict=True):
        length = _LETTER * len(point.name)
        tries = [
            (left, y + shift)
            for shift in (4, -8, 16, -21, 29)
            for left in (x + 10, x - 10 - length, x - length / 2)
            if across.start <= left and left + length <= width
            if not (left == x - length / 2 and shift == 4)
        ]
        tries = tries or [(max(across.start, x - 10 - length), y - 8)]
        place = next((t for t in tries if not _hits(_box(t, length), taken)), tries[0])
        taken.append(_box(place, length))
        found.append(place)
    return found


def _box(place: tuple[float, float], length: float) -> tuple[float, float, float, float]:
    return place[0], place[1] - _LINE + 3, place[0] + length, place[1] + 3


def _hits(
    box: tuple[float, float, float, float], taken: list[tuple[float, float, float, float]]
) -> bool:
    left, top, right, bottom = box
    return any(left < r and lf < right and top < b and t < bottom for lf, t, r, b in taken)


def share_domain(values: Sequence[float]) -> tuple[float, float]:
    """Return multiples of ten percent around `values` and 100."""
    low, high = min([*values, 100.0]), max([*values, 100.0])
    return 10.0 * (low // 10), -10.0 * (-high // 10)


def key(kind: str, words: str, *, outline: bool = False) -> Markup:
    """Return an entry of a legend: a mark and what it stands for."""
    mark = svg.legend_mark(kind)
    return svg.tag(
        "span", svg.tag("span", mark, class_="outline" if outline else None), f" {words}",
        class_="key-item",
    )  # fmt: skip


def axis_number(value: float) -> str:
    """Return a tick of a logarithmic axis."""
    return f"{value:,.6g}" if value < 1e6 else f"{value:.0e}"


def _middle(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _columns(scale: svg.Scale, height: float, tick: Callable[[float], str]) -> Markup:
    parts = []
    for value in scale.ticks(4):
        x = scale(value)
        parts.append(svg.segment(x, _TOP - 4, x, height - _BOTTOM, class_="grid"))
        parts.append(svg.text(x, 12, tick(value), class_="middle"))
    return svg.group(*parts, class_="axis")
