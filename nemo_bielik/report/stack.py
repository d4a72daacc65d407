"""The two architectures, drawn as stacks of layers: every width is to one scale of channels."""

from dataclasses import dataclass

from markupsafe import Markup

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.report import svg

_WIDTH, _COLUMN = 690.0, 268.0
_LEFT, _RIGHT = 28.0, 398.0
_TOP, _GAP = 34.0, 6.0


@dataclass(frozen=True)
class _Frame:
    """Sizes that both columns share: pixels of a channel, height and pitch of a layer."""

    pixels: float
    pitch: float
    bar: float


def draw_stacks(plan: PruningPlan) -> Markup:
    """Draw the source with what is cut hatched, and beside it what is kept."""
    source, target = plan.source, plan.target
    frame = _frame(source)
    height = _TOP + frame.pitch * (source.num_layers + 2) + 16
    kept = {layer: place for place, layer in enumerate(plan.layers)}
    start = _TOP + frame.pitch * (1 + (source.num_layers - target.num_layers) / 2)
    parts = [_ends(source, target, frame, start), _headings(frame, source)]
    layers = []  # drawn last: what they say lies over the links
    for layer in range(source.num_layers):
        y = _TOP + frame.pitch * (layer + 1)
        if layer in kept:
            parts.append(_target_layer(plan, layer, kept[layer], frame, y, start))
        layers.append(_source_layer(plan, layer, kept.get(layer), frame, y))
    label = (
        f"{source.num_layers} layers of {source.name}, of which {target.num_layers} are kept "
        f"with {target.ffn_hidden_size} of {source.ffn_hidden_size} ffn channels"
    )
    size = "tight" if frame.pitch < 15 else "easy"
    return svg.picture(_WIDTH, height, label, svg.group(*parts, *layers, class_=size))


def _frame(source: ModelArch) -> _Frame:
    channels = source.num_attention_heads * source.head_dim + source.ffn_hidden_size
    pitch = min(26.0, max(9.0, 520.0 / source.num_layers))
    return _Frame((_COLUMN - _GAP) / channels, pitch, pitch * 0.72)


def _headings(frame: _Frame, source: ModelArch) -> Markup:
    attention = source.num_attention_heads * source.head_dim * frame.pixels
    parts = []
    for left in (_LEFT, _RIGHT):
        parts.append(svg.text(left, 14, "attention"))
        parts.append(svg.text(left + attention + _GAP, 14, "feed-forward"))
    return svg.group(*parts, class_="axis")


def _source_layer(
    plan: PruningPlan, layer: int, place: int | None, frame: _Frame, y: float
) -> Markup:
    source = plan.source
    heads = 0 if place is None else len(plan.heads[place])
    ffn = 0 if place is None else len(plan.ffn[place])
    state = "dropped" if place is None else "kept"
    parts = [
        svg.title(f"layer {layer}: {state}"),
        svg.text(_LEFT - 10, y + frame.bar / 2 + 4, str(layer), class_="end"),
        *_bars(source, _LEFT, y, frame, heads, ffn),
    ]
    if place is None:
        parts.append(svg.text(_LEFT + _COLUMN + 10, y + frame.bar / 2 + 4, "dropped", class_="cut"))
    return svg.group(*parts, class_=f"layer {state}", data_layer=layer)


def _target_layer(
    plan: PruningPlan, layer: int, place: int, frame: _Frame, y: float, start: float
) -> Markup:
    target = plan.target
    here = start + frame.pitch * place
    size = frame.bar / 2
    x1, x2 = _LEFT + _COLUMN + 6, _RIGHT - 28
    middle = (x1 + x2) / 2
    before, after = f"{y + size:.2f}", f"{here + size:.2f}"
    path = f"M{x1:g} {before}C{middle:g} {before} {middle:g} {after} {x2:g} {after}"
    return svg.group(
        svg.title(f"layer {place}, from layer {layer}"),
        svg.tag("path", d=path, class_="link"),
        svg.text(_RIGHT - 10, here + frame.bar / 2 + 4, str(place), class_="end"),
        *_bars(target, _RIGHT, here, frame, target.num_attention_heads, target.ffn_hidden_size),
        class_="layer made",
        data_from=layer,
    )


def _bars(arch: ModelArch, x: float, y: float, frame: _Frame, heads: int, ffn: int) -> list[Markup]:
    """Draw one layer: kept width solid, the rest hatched."""
    head = arch.head_dim * frame.pixels
    attention = arch.num_attention_heads * head
    after = x + attention + _GAP
    width = arch.ffn_hidden_size * frame.pixels
    seams = [
        svg.segment(x + n * head, y, x + n * head, y + frame.bar, class_="seam")
        for n in range(1, arch.num_attention_heads)
        if head > 4
    ]
    return [
        *_bar(x, y, attention, frame.bar, heads * head, "attention"),
        *seams,
        *_bar(after, y, width, frame.bar, ffn * frame.pixels, "ffn"),
    ]


def _bar(x: float, y: float, whole: float, height: float, kept: float, name: str) -> list[Markup]:
    parts = []
    if kept > 0:
        parts.append(svg.rect(x, y, kept, height, class_=name))
    if whole - kept > 0.05:
        parts.append(svg.rect(x + kept, y, whole - kept, height, class_="gone"))
    return parts


def _ends(source: ModelArch, target: ModelArch, frame: _Frame, start: float) -> Markup:
    """Draw the embedding above and the output below each stack, as wide as the hidden state."""
    last = _TOP + frame.pitch * (source.num_layers + 1)
    ends = {
        (_LEFT, _TOP): (source, "embedding"),
        (_LEFT, last): (source, "output"),
        (_RIGHT, start - frame.pitch): (target, "embedding"),
        (_RIGHT, start + frame.pitch * target.num_layers): (target, "output"),
    }
    parts = []
    for (x, y), (arch, name) in ends.items():
        shown = arch.hidden_size * frame.pixels
        whole = source.hidden_size * frame.pixels if x == _LEFT else shown
        kept = target.hidden_size * frame.pixels
        words = f"{name} {arch.vocab_size:,} × {arch.hidden_size:,}"
        if name == "output" and arch.tie_word_embeddings:
            words += ", tied to the embedding"
        parts += _bar(x, y, whole, frame.bar, kept, "hidden")
        parts.append(svg.text(x + whole + 8, y + frame.bar / 2 + 4, words))
    return svg.group(*parts, class_="axis ends")
