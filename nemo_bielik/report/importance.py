"""Importance over layers, heads and channels with what was cut, in rows that share one scale.

A row is a layer: its Block Influence, its heads in their order, its ffn channels sorted so that
the kept ones come first. Shades are steps on a logarithmic scale over the whole model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import PruningPlan, ScoreTable
from nemo_bielik.pruning.minitron import hidden_importance
from nemo_bielik.report import svg
from nemo_bielik.report.wording import percent

LEVELS = 12
_WIDTH = 960.0
_BARS, _HEADS, _STRIP = (46.0, 232.0), (256.0, 396.0), (420.0, 862.0)
_TOP = 26.0


@dataclass(frozen=True)
class Shades:
    """Steps from 0 (unimportant) to `LEVELS` - 1, even in the logarithm."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Float64) -> "Shades":
        """Span the middle 98 % of positive values, so that outliers do not flatten it."""
        positive = values[values > 0]
        if not positive.size:
            return cls(1.0, 1.0)
        low, high = np.percentile(positive, [1, 99])
        return cls(float(low), float(high))

    def __call__(self, values: Float64) -> list[int]:
        """Return the step of each value."""
        if self.high <= self.low:
            return [LEVELS // 2] * len(values)
        bounded = np.clip(values, self.low, self.high)
        share = np.log(bounded / self.low) / np.log(self.high / self.low)
        return [int(step) for step in np.minimum(share * LEVELS, LEVELS - 1)]


def draw_layers(scores: ScoreTable, plan: PruningPlan | None) -> Markup:
    """Draw one row a layer; without a plan nothing is marked as cut."""
    layers = scores.arch.num_layers
    pitch = min(27.0, max(12.0, 620.0 / layers))
    kept = {layer: place for place, layer in enumerate(plan.layers)} if plan else {}
    rows = [
        _layer(scores, plan, layer, kept.get(layer), _TOP + pitch * layer, pitch)
        for layer in range(layers)
    ]
    label = "Block Influence, importance of heads and of ffn channels by layer"
    size = "tight" if pitch < 15 else "easy"
    shown = svg.group(*rows, class_=size)
    return svg.picture(_WIDTH, _TOP + pitch * layers + 4, label, _headings(), shown)


def draw_hidden(scores: ScoreTable, plan: PruningPlan | None) -> Markup:
    """Draw the hidden channels of the whole model as one sorted strip."""
    importance = hidden_importance(scores)
    kept = plan.hidden if plan else list(range(len(importance)))
    shades = Shades.of(importance)
    strip = _strip(importance, kept, shades, (_BARS[0], _STRIP[1]), 4.0, 26.0)
    share = svg.text(_WIDTH - 2, 21, _kept_share(importance, kept), class_="end")
    label = f"{len(kept)} of {len(importance)} hidden channels kept"
    return svg.picture(_WIDTH, 36, label, svg.group(svg.title(label), strip, share))


def kept_first(importance: Float64, kept: Sequence[int]) -> list[int]:
    """Return channel numbers: the kept ones from high to low importance, then the others."""
    chosen = set(kept)
    return sorted(range(len(importance)), key=lambda i: (i not in chosen, -importance[i], i))


def _headings() -> Markup:
    columns = (
        (_BARS[0], "Block Influence"),
        (_HEADS[0], "heads"),
        (_STRIP[0], "ffn channels, kept ones first, by importance"),
    )
    shown = [svg.text(x, 12, words) for x, words in columns]
    return svg.group(*shown, svg.text(_WIDTH - 2, 12, "kept", class_="end"), class_="axis")


def _layer(
    scores: ScoreTable,
    plan: PruningPlan | None,
    layer: int,
    place: int | None,
    y: float,
    pitch: float,
) -> Markup:
    dropped = plan is not None and place is None
    height = pitch * 0.74
    heads, ffn = np.sqrt(scores.heads[layer]), np.sqrt(scores.ffn[layer])
    kept_heads, kept_ffn = list(range(len(heads))), list(range(len(ffn)))
    if plan is not None:
        kept_heads = [] if place is None else plan.heads[place]
        kept_ffn = [] if place is None else plan.ffn[place]
    words = "dropped" if dropped else _kept_share(ffn, kept_ffn)
    shades = Shades.of(np.sqrt(scores.ffn))
    return svg.group(
        svg.text(_BARS[0] - 10, y + height / 2 + 4, str(layer), class_="end"),
        _influence(scores.block_influence(), layer, y, height, dropped),
        _heads(heads, kept_heads, Shades.of(np.sqrt(scores.heads)), y, height),
        _strip(ffn, kept_ffn, shades, _STRIP, y, height),
        svg.text(_WIDTH - 2, y + height / 2 + 4, words, class_="end cut" if dropped else "end"),
        class_="layer dropped" if dropped else "layer kept",
        data_layer=layer,
    )


def _influence(values: Float64, layer: int, y: float, height: float, dropped: bool) -> Markup:
    scale = svg.Scale(0.0, float(values.max()), _BARS[0], _BARS[1] - 46)
    width = scale(max(float(values[layer]), 0.0)) - _BARS[0]
    shown = f"{values[layer]:.3f}".replace("-", "−")
    return svg.group(
        svg.title(f"layer {layer}: Block Influence {shown}" + (", dropped" if dropped else "")),
        svg.rect(_BARS[0], y, width, height, class_="gone" if dropped else "influence"),
        svg.text(_BARS[0] + width + 6, y + height / 2 + 4, shown, class_="faint"),
    )


def _heads(importance: Float64, kept: Sequence[int], shades: Shades, y: float, h: float) -> Markup:
    """Draw the heads in their order; a head that is cut is hatched."""
    size = (_HEADS[1] - _HEADS[0]) / len(importance)
    gap = min(2.0, size * 0.15)
    chosen = set(kept)
    parts = []
    for head, step in enumerate(shades(importance)):
        x = _HEADS[0] + head * size
        parts.append(svg.rect(x, y, size - gap, h, class_=f"heat s{step}"))
        if head not in chosen:
            parts.append(svg.rect(x, y, size - gap, h, class_="over"))
    return svg.group(svg.title(f"{len(chosen)} of {len(importance)} heads kept"), *parts)


def _strip(
    importance: Float64,
    kept: Sequence[int],
    shades: Shades,
    ends: tuple[float, float],
    y: float,
    height: float,
) -> Markup:
    """Draw sorted channels in runs of equal shade; what is cut is hatched behind a bold line."""
    order = kept_first(importance, kept)
    scale = svg.Scale(0.0, float(len(order)), *ends)
    steps = shades(importance[order])
    starts = [n for n in range(len(order)) if n in (0, len(kept)) or steps[n] != steps[n - 1]]
    parts = [
        svg.rect(scale(start), y, scale(end) - scale(start), height, class_=f"heat s{steps[start]}")
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True)
    ]
    cut = scale(len(kept))
    if len(kept) < len(order):
        parts.append(svg.rect(cut, y, ends[1] - cut, height, class_="over"))
    if 0 < len(kept) < len(order):
        parts.append(svg.segment(cut, y - 2.5, cut, y + height + 2.5, class_="knife"))
    return svg.group(svg.title(f"{len(kept)} of {len(order)} channels kept"), *parts)


def _kept_share(importance: Float64, kept: Sequence[int]) -> str:
    whole = float(importance.sum())
    return percent(100 * float(importance[list(kept)].sum()) / whole if whole else 0.0, 0)
