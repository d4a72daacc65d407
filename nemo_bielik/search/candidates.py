"""Shapes that a search starts from: the report's ten, the user's own, or a spread of legal ones.

Generated shapes lie on a grid of sizes that kernels like and that the wanted layout divides. From
those within the limits a diverse list is chosen, farthest point first (Gonzalez, "Clustering to
minimize the maximum intercluster distance", 1985): each shape is the one farthest from all before
it, so that no two of the list are neighbours while a whole corner is left out.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch
from nemo_bielik.artifact_files import Float64
from nemo_bielik.errors import ConfigError
from nemo_bielik.option_values import parse_value
from nemo_bielik.planner.specs import resolve_arch
from nemo_bielik.pruning.select import PRUNABLE, check_target
from nemo_bielik.search.limits import Limits, use
from nemo_bielik.training import TrainSettings

PAPER = "paper"
_SHORT = dict(zip(PRUNABLE, ("layers", "hidden", "ffn", "heads", "groups"), strict=True))
#: No size is cut below this share of the original's.
_SMALLEST = 0.4
#: Values of each size on the grid, at most.
_GRID = 13


@dataclass(frozen=True)
class Candidate:
    """A shape to try; `max_lr`, if given, is the peak learning rate of its trials alone."""

    name: str
    arch: ModelArch
    max_lr: float | None = None


@dataclass(kw_only=True)
class Generation:
    """How shapes are generated, where none are named."""

    count: int = field(default=10, metadata={"help": "shapes to choose"})
    vary: list[str] = field(
        default_factory=lambda: list(PRUNABLE),
        metadata={"help": "sizes that may be cut, where the method can"},
    )
    least_use: float = field(
        default=0.9,
        metadata={"help": "share of the tightest upper limit that a shape uses at least; 0: any"},
    )
    multiple: int = field(
        default=64, metadata={"help": "hidden and ffn sizes are multiples of this, for kernels"}
    )
    tensor: int = field(
        default=0, metadata={"help": "tensor ranks that must share all sizes; 0: as recovery"}
    )
    pipeline: int = field(
        default=0, metadata={"help": "stages that must share the layers; 0: as recovery"}
    )

    def __post_init__(self) -> None:
        for name, least in {"count": 1, "multiple": 1, "tensor": 0, "pipeline": 0}.items():
            if getattr(self, name) < least:
                raise ConfigError(
                    f"generate.{name} is {getattr(self, name)}; it must be {least} or more"
                )
        if not 0 <= self.least_use < 1:
            raise ConfigError(
                f"generate.least_use is {self.least_use}; it must be at least 0, below 1"
            )
        unknown = [name for name in self.vary if name not in PRUNABLE]
        if unknown or not self.vary:
            raise ConfigError(
                f"generate.vary is {self.vary}; it takes some of {', '.join(PRUNABLE)}"
            )


def resolve(specs: Sequence[str], source: ModelArch) -> list[Candidate]:
    """Return the candidates that `specs` name.

    A spec is an architecture as `bielik plan` takes it (``exp-010``, ``source:num_layers=40``),
    with ``@max_lr=3e-4`` behind it for a learning rate of its own. Raises `ConfigError` for what
    cannot be cut out of `source`, and for two of one name.
    """
    found = [_resolve(spec, source) for spec in specs]
    names = [candidate.name for candidate in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"candidates names {name} twice; give each shape once")
    return found


def _resolve(spec: str, source: ModelArch) -> Candidate:
    words, at, rate = spec.partition("@")
    arch = resolve_arch(words, source)
    _check_shape(spec, arch, source)
    if shape_name(arch, source) == "whole":
        raise ConfigError(f"{spec}: cuts nothing; give at least one smaller size")
    name = shape_name(arch, source) if ":" in words else arch.name
    if not at:
        return Candidate(name, arch.replace(name=name))
    setting, equals, value = rate.partition("=")
    if setting != "max_lr" or not equals:
        raise ConfigError(f"{spec}: after @ stands {rate!r}; write @max_lr=3e-4")
    max_lr = parse_value(float, value, spec)
    if not 0 < max_lr < math.inf:
        raise ConfigError(f"{spec}: max_lr is {max_lr}; it must be finite and above 0")
    return Candidate(f"{name}-lr{max_lr:g}", arch.replace(name=name), max_lr)


def _check_shape(spec: str, arch: ModelArch, source: ModelArch) -> None:
    check_target(source, arch)
    if arch.ffn_hidden_size % 2:  # Megatron-Bridge 0.3.1 warms its kernels up on two halves of it
        raise ConfigError(
            f"{spec}: ffn_hidden_size is {arch.ffn_hidden_size}; the engine trains even ones only"
        )


def shape_name(arch: ModelArch, source: ModelArch) -> str:
    """Return a name that says what was cut: ``layers40-ffn11264``; ``whole`` if nothing was."""
    cut = [name for name in PRUNABLE if getattr(arch, name) != getattr(source, name)]
    return "-".join(f"{_SHORT[name]}{getattr(arch, name)}" for name in cut) or "whole"


def paper(source: ModelArch) -> list[Candidate]:
    """Return the report's ten; of another original than its own, its ten proportions.

    Cut widths are even multiples of about a thirty-second. Of a small original two of the ten may
    be one shape, or cut nothing: these are left out.
    """
    found: dict[ModelArch, Candidate] = {}
    for name, arch in EXPERIMENTS.items():
        sizes = {
            size: (getattr(arch, size), getattr(BIELIK_11B_V3, size), getattr(source, size))
            for size in ("num_layers", "hidden_size", "ffn_hidden_size")
        }
        shape = source.replace(
            **{size: _scaled(*of, even=size != "num_layers") for size, of in sizes.items()}
        )
        _check_shape(name, shape, source)
        if shape != source:
            found.setdefault(shape, Candidate(name, shape.replace(name=name)))
    return list(found.values())


def _scaled(cut: int, whole: int, size: int, even: bool) -> int:
    """Return `size` cut in the proportion of `cut` to `whole`; the report's own sizes as they are.

    >>> _scaled(11264, 14336, 14336, True), _scaled(3648, 4096, 128, True)
    (11264, 112)
    >>> _scaled(4096, 4096, 1000, True), _scaled(3648, 4096, 1000, True)
    (1000, 900)
    """
    if size == whole:
        return cut
    if cut == whole:
        return size
    step = max(2, size // 64 * 2) if even else 1
    return min(size, max(step, round(size * cut / whole / step) * step))


def generate(
    source: ModelArch,
    limits: Limits,
    settings: Generation,
    run: TrainSettings,
    teacher: ModelArch | None,
) -> list[Candidate]:
    """Return diverse shapes that use `limits` and break none, the first one in their middle.

    Candidates are ranked by quality alone, and most of what is far below a budget would lose to
    what uses it. Raises `ConfigError` if there are fewer than `settings.count`.
    """
    settings = replace(
        settings,
        tensor=settings.tensor or run.parallel.tensor,
        pipeline=settings.pipeline or run.parallel.pipeline,
    )
    found = [
        arch
        for arch in shapes(source, settings)
        if settings.least_use <= use(arch, teacher, limits, run) <= 1
    ]
    if len(found) < settings.count:
        raise ConfigError(
            f"only {len(found)} shapes of {source.name} are within limits and use "
            f"{settings.least_use:.0%} of the tightest, and generate.count is {settings.count}; "
            "widen limits, vary more sizes, or lower generate.least_use or generate.multiple"
        )
    chosen = farthest(coordinates(found, source), settings.count)
    return [Candidate(found[n].name, found[n]) for n in chosen]


def shapes(source: ModelArch, settings: Generation) -> Iterator[ModelArch]:
    """Yield the grid of shapes that can be cut out of `source` and split as `settings` say."""
    unit = math.lcm(settings.multiple, settings.tensor)
    layer_counts = _grid(source.num_layers, settings.pipeline, "num_layers" in settings.vary)
    widths = _grid(source.hidden_size, settings.multiple, "hidden_size" in settings.vary)
    channels = _grid(source.ffn_hidden_size, unit, "ffn_hidden_size" in settings.vary)
    attention = list(_heads(source, settings))
    for layers, hidden, ffn, (heads, groups) in itertools.product(
        layer_counts, widths, channels, attention
    ):
        arch = source.replace(
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=ffn,
            num_attention_heads=heads,
            num_query_groups=groups,
        )
        name = shape_name(arch, source)
        if name != "whole":
            yield arch.replace(name=name)


def _grid(size: int, unit: int, varies: bool) -> list[int]:
    """Return multiples of `unit` from `_SMALLEST` of `size` to all of it, evenly thinned."""
    if not varies:
        return [size] if size % unit == 0 else []
    first, last = math.ceil(_SMALLEST * size / unit), size // unit
    step = max(1, math.ceil((last - first + 1) / _GRID))
    return [number * unit for number in range(last, max(first, 1) - 1, -step)]


def _heads(source: ModelArch, settings: Generation) -> Iterator[tuple[int, int]]:
    """Yield (heads, groups); a group keeps all of its heads, three quarters or half of them."""
    whole, per_group = source.num_query_groups, source.heads_per_group
    groups = range(math.ceil(_SMALLEST * whole), whole + 1)
    shares = sorted({per_group, math.ceil(0.75 * per_group), math.ceil(0.5 * per_group)})
    for kept in groups if "num_query_groups" in settings.vary else [whole]:
        for heads in shares if "num_attention_heads" in settings.vary else [per_group]:
            if kept % settings.tensor == 0:
                yield kept * heads, kept


def coordinates(archs: Sequence[ModelArch], source: ModelArch) -> Float64:
    """Return each shape's sizes as shares of the original's, [shapes, 5]."""
    whole = [getattr(source, name) for name in PRUNABLE]
    sizes = np.array([[getattr(arch, name) for name in PRUNABLE] for arch in archs], float)
    shares: Float64 = sizes / np.array(whole)
    return shares


def farthest(points: Float64, count: int) -> list[int]:
    """Return `count` rows of `points` [n, d], each the farthest from those before it.

    The first is the nearest to the mean; of equals the first in order. The least distance between
    two of the chosen is at least half of what any choice of as many could reach.
    """
    chosen = [int(np.argmin(np.linalg.norm(points - points.mean(axis=0), axis=1)))]
    distance = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen
