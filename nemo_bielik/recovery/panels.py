"""The drawings of a recovery page: one row a suite, category or language, one mark a student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from nemo_bielik.paper.recovery import benchmark_recovery
from nemo_bielik.paper.tables import benchmark_of
from nemo_bielik.recovery.aggregation import CATEGORY, LANGUAGE, SUITE
from nemo_bielik.recovery.rows import Row
from nemo_bielik.recovery.words import PLAIN, interval_text, limited_suites, share
from nemo_bielik.report import dots, svg
from nemo_bielik.report.wording import number
from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED

#: The mark of the report's own figure.
PAPER = "paper"
_KNOWN = (PRUNED, DISTILLED, LABEL_TRAINED, FROM_SCRATCH)
_EXTRA = ("extra1", "extra2", "extra3", "extra4")
_WIDE, _PANEL = 640.0, 466.0
_NOT_THE_SAME = "The report’s figures are not all of the same tasks and metrics: see what differs."


@dataclass(frozen=True)
class Interval:
    """A recovery in percent and the ends of its interval; the figure itself where it has none."""

    mean: float
    low: float
    high: float
    note: str


@dataclass(frozen=True)
class Panel:
    """A drawing with its heading, its legend and a remark."""

    heading: str
    keys: Markup
    drawing: Markup
    remark: str = ""


def kinds(labels: Sequence[str]) -> dict[str, str]:
    """Return the mark of each student; students that have no mark of their own share four."""
    others = [label for label in labels if label not in _KNOWN]
    return {
        label: label if label in _KNOWN else _EXTRA[others.index(label) % len(_EXTRA)]
        for label in labels
    }


def suite_panel(found: dict[str, Any]) -> Panel | None:
    """Draw recovery by suite, the report's figure beside it where it has that benchmark."""
    rows = [row for row in found["rows"] if row["level"] == SUITE]
    paper = {}
    if found["ratio"] == PLAIN:
        for suite in {row["suite"] for row in rows}:
            if benchmark := benchmark_of(suite):
                value = benchmark_recovery(benchmark)
                paper[suite] = Interval(value, value, value, " (no interval is printed)")
    panel = _panel(found, "Recovery by suite", rows, _WIDE, paper)
    if panel is None or not paper:
        return panel
    return replace(panel, remark=f"{panel.remark} {_NOT_THE_SAME}")


def part_panels(found: dict[str, Any]) -> list[Panel]:
    """Draw recovery by category and by language: of all suites, then of each that has several."""
    panels = []
    for level, word in ((CATEGORY, "category"), (LANGUAGE, "language")):
        parts = [row for row in found["rows"] if row["level"] == level]
        for suite in sorted({row["suite"] or "" for row in parts}):
            rows = [row for row in parts if (row["suite"] or "") == suite]
            if len({row["name"] for row in rows}) > 1:
                where = f"{suite} by {word}" if suite else f"By {word}, all suites"
                panels.append(_panel(found, where, rows, _PANEL) or _plain(found, where, rows))
    return [panel for panel in panels if panel]


def _plain(found: dict[str, Any], heading: str, rows: Sequence[Row]) -> Panel | None:
    """Draw plain ratios where a baseline is known for whole tasks alone."""
    return _panel(found | {"ratio": PLAIN}, f"{heading}, plain ratio", rows, _PANEL)


def _panel(
    found: dict[str, Any],
    heading: str,
    rows: Sequence[Row],
    width: float,
    paper: Mapping[str, Interval] | None = None,
) -> Panel | None:
    labels = [student["label"] for student in found["students"]]
    marks: dict[str, dict[str, Interval]] = {}
    for row in rows:
        if extent := _extent(row, found):
            marks.setdefault(row["name"], {})[row["student"]] = extent
    beside = paper or {}
    drawn = [_drawn(name, own, labels, found, beside.get(name)) for name, own in marks.items()]
    if not drawn:
        return None
    low, high = dots.domain(drawn, 80, 100)
    of_label = kinds(labels)
    looks = dots.Looks({PAPER: "the report"}, of_label, apart=True)
    used = [label for label in labels if any(label in own for own in marks.values())]
    shown = [(label, of_label[label]) for label in used] + [("the report", PAPER)] * bool(paper)
    drawing = dots.dot_plot(drawn, heading, width, low, high, looks)
    keys = [
        svg.tag("span", svg.legend_mark(kind), f" {label}", class_="key-item")
        for label, kind in shown
    ]
    return Panel(heading, svg.tag("p", *keys, class_="legend"), drawing, _remark(found, rows))


def _drawn(
    name: str,
    own: Mapping[str, Interval],
    labels: Sequence[str],
    found: dict[str, Any],
    paper: Interval | None,
) -> dots.Row:
    ordered = {label: own[label] for label in labels if label in own}
    marks = ordered | ({PAPER: paper} if paper else {})
    main = ordered.get(found["main"])
    return dots.Row(name, name.replace("_", " "), marks, f"{number(main.mean)} %" if main else "–")


def _extent(row: Row, found: dict[str, Any]) -> Interval | None:
    value, ends = share(row, found["ratio"])
    if value is None:
        return None
    if ends is None:
        return Interval(value, value, value, " (no interval)")
    confidence = f"{100 * found['bootstrap']['confidence']:g} %"
    items = f", {row['items']:,} items" if "items" in row else ""
    return Interval(value, ends[0], ends[1], f" ({confidence}: {interval_text(ends)}{items})")


def _remark(found: dict[str, Any], rows: Sequence[Row]) -> str:
    confidence = f"{100 * found['bootstrap']['confidence']:g} %"
    told = f"Lines: {confidence} intervals. At the right: {found['main']}."
    names = sorted({row["suite"] for row in rows if row["suite"]}) or list(found["suites"])
    limited = limited_suites(found, names)
    return f"{told} {limited.capitalize()}." if limited else told
