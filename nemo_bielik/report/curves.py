"""Loss curves: what was written during training, and lines drawn from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from nemo_bielik.report import svg
from nemo_bielik.report.gather import ModelRun
from nemo_bielik.report.wording import NAMES, count

Point = tuple[float, float]
_MOST_POINTS = 160
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 14.0, 14.0, 38.0


@dataclass(frozen=True)
class Curve:
    """One line: losses over tokens, its kind of model and how it is drawn (a CSS class)."""

    kind: str
    style: str
    points: list[Point]
    has_marks: bool = False
    hint: str = ""


def loss_curves(kind: str, runs: Sequence[ModelRun]) -> list[Curve]:
    """Return the lines of one kind: training faint, validation strong; seeds thin under their mean.

    Where nothing was validated, training takes the strong line.
    """
    training = [thinned(training_points(run.metrics)) for run in runs]
    validation = [validation_points(run.metrics) for run in runs]
    name = NAMES.get(kind, kind)
    if all(validation):
        faint = [Curve(kind, "training", mean_points(training), hint=f"{name}: training loss")]
        strong, hint = validation, f"{name}: validation loss"
    else:
        faint, strong, hint = [], training, f"{name}: training loss"
    if len(runs) > 1:
        faint += [
            Curve(kind, "seed", points, hint=f"{hint}, seed {run.seed}")
            for run, points in zip(runs, strong, strict=True)
        ]
        hint += f", mean of {len(runs)} seeds"
    mean = Curve(kind, "mean", mean_points(strong), all(validation), hint)
    return [curve for curve in (*faint, mean) if curve.points]


def training_points(metrics: Sequence[dict[str, Any]]) -> list[Point]:
    """Return (tokens, loss) of every step."""
    return [(line["tokens"], line["loss"]) for line in metrics if "loss" in line]


def validation_points(metrics: Sequence[dict[str, Any]]) -> list[Point]:
    """Return (tokens, validation loss); a step's tokens are in proportion to the last step's."""
    steps = [line for line in metrics if "loss" in line]
    if not steps:
        return []
    per_step = steps[-1]["tokens"] / steps[-1]["step"]
    return [
        (line["step"] * per_step, line["validation_loss"])
        for line in metrics
        if "validation_loss" in line
    ]


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most `most` points, each the mean of as many neighbours."""
    size = math.ceil(len(points) / most) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), fmean(y for _, y in part)) for part in parts]


def mean_points(lines: Sequence[Sequence[Point]]) -> list[Point]:
    """Return the mean of lines as far as all of them go."""
    return [
        (fmean(x for x, _ in column), fmean(y for _, y in column))
        for column in zip(*lines, strict=False)
    ]


def loss_chart(curves: Sequence[Curve], label: str, width: float, height: float = 270.0) -> Markup:
    """Draw curves over tokens; the loss is on a logarithmic scale where it spans a factor of 3."""
    points = [(x, y) for curve in curves for x, y in curve.points if y > 0]
    across = svg.Scale(0, max(x for x, _ in points), _LEFT, width - _RIGHT)
    low, high = min(y for _, y in points), max(y for _, y in points)
    wide = high > 3 * low
    low, high = (low / 1.08, high * 1.05) if wide else (low - 0.04 * high, high * 1.02)
    up = svg.Scale(low, high, height - _BOTTOM, _TOP, is_log=wide)
    lines = [_line(curve, across, up) for curve in curves]
    return svg.picture(width, height, label, _axes(across, up, width, height), *lines)


def _line(curve: Curve, across: svg.Scale, up: svg.Scale) -> Markup:
    places = [(across(x), up(y)) for x, y in curve.points if y > 0]
    shown = svg.polyline(places, class_=f"curve {curve.style}")
    marks = [
        svg.marker(
            curve.kind, across(x), up(y), 2.8, f"{curve.hint}: {y:.4g} after {count(x)} tokens"
        )
        for x, y in curve.points
        if curve.has_marks and y > 0
    ]
    return svg.group(svg.title(curve.hint), shown, *marks, class_=curve.kind)


def _tokens(value: float) -> str:
    number, space, unit = count(value).partition("\N{NO-BREAK SPACE}")
    return f"{float(number.replace(',', '')):g}{space}{unit}"


def _axes(across: svg.Scale, up: svg.Scale, width: float, height: float) -> Markup:
    parts = []
    for value in up.ticks(5):
        y = up(value)
        parts.append(svg.segment(_LEFT, y, width - _RIGHT, y, class_="grid"))
        parts.append(svg.text(_LEFT - 8, y + 4, f"{value:g}", class_="end"))
    parts += [
        svg.text(across(value), height - 20, _tokens(value), class_="middle")
        for value in across.ticks(4)
    ]
    parts.append(svg.text(width - _RIGHT, height - 4, "tokens", class_="end faint"))
    return svg.group(*parts, class_="axis")
