"""Which linear layers of a model are quantised, and why others are not. No torch.

Embeddings and the output layer stay in high precision, as servers expect. Servers join queries,
keys and values to one matrix, and gate and up to another, so these are quantised together or not.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.quantize.modelopt_formats import FORMATS, ServerFormat, find_format
from nemo_bielik.tensors import layer_tensor_name, split_layer, tensor_rows

#: The linear layers of one layer that become one matrix in a server.
JOINED = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
_WEIGHT = ".weight"


@dataclass(kw_only=True)
class KeptLayers:
    """The linear layers that are kept in high precision."""

    keep: list[str] = field(
        default_factory=list,
        metadata={"help": "linear layers to keep in high precision: names or patterns with *"},
    )
    keep_first: int = field(default=0, metadata={"help": "layers kept so at the beginning"})
    keep_last: int = field(default=0, metadata={"help": "layers kept so at the end"})

    def __post_init__(self) -> None:
        for name in ("keep_first", "keep_last"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(kw_only=True)
class PrecisionConfig(KeptLayers):
    """A format, and the linear layers that are kept out of it."""

    format: str = field(metadata={"help": f"of the linear layers: {', '.join(FORMATS)}"})

    def __post_init__(self) -> None:
        self._check_format()
        super().__post_init__()

    def _check_format(self) -> None:
        find_format(self.format)


@dataclass(frozen=True)
class LayerChoice:
    """Names of the linear layers that are quantised; those kept in high precision, with why."""

    quantized: tuple[str, ...]
    kept: dict[str, str]

    @property
    def unfit(self) -> dict[str, str]:
        """What was not asked for: layers that the format cannot hold."""
        return {name: why for name, why in self.kept.items() if why != _ASKED}


_ASKED = "as asked"


def choose_layers(arch: ModelArch, config: PrecisionConfig) -> LayerChoice:
    """Return which layers of `arch` are quantised as `config` asks.

    Raises `ConfigError` for a pattern that fits no layer or divides what servers join, and where
    nothing would be quantised.
    """
    kind = find_format(config.format)
    shapes = linear_shapes(arch)
    asked = _asked(arch, config, shapes)
    kept: dict[str, str] = {}
    for names in joined_layers(arch):
        chosen = [name for name in names if name in asked]
        if chosen and len(chosen) < len(names):
            other = next(name for name in names if name not in asked)
            raise ConfigError(
                f"keep names {chosen[0]} but not {other}; servers join the two to one matrix, so "
                "name both or neither"
            )
        unfit = [reason for name in names if (reason := _why_unfit(kind, *shapes[name]))]
        if chosen or unfit:
            kept |= dict.fromkeys(names, _ASKED if chosen else unfit[0])
    quantized = tuple(name for name in shapes if name not in kept)
    if not quantized:
        raise ConfigError(
            f"format={kind.name} leaves no linear layer of {arch.name} to quantise "
            f"({next(iter(kept.values()))}); choose another format or keep less"
        )
    return LayerChoice(quantized, kept)


def linear_shapes(arch: ModelArch) -> dict[str, tuple[int, int]]:
    """Return (outputs, inputs) of every linear layer within the layers, by its name."""
    return {
        row.name.removesuffix(_WEIGHT): (row.shape[0], row.shape[1])
        for row in tensor_rows(arch)
        if row.layer is not None and len(row.shape) == 2
    }


def joined_layers(arch: ModelArch) -> Iterator[list[str]]:
    """Yield the names of linear layers that are quantised together or not at all."""
    for layer in range(arch.num_layers):
        for suffixes in JOINED:
            yield [layer_tensor_name(layer, suffix) for suffix in suffixes]


def _asked(arch: ModelArch, config: PrecisionConfig, names: Collection[str]) -> set[str]:
    found: set[str] = set()
    for pattern in config.keep:
        fits = {name for name in names if fnmatchcase(name, pattern)}
        if not fits:
            raise ConfigError(
                f"keep: {pattern!r} fits no linear layer{nearest(pattern, names)}; they are called "
                f"like {next(iter(names))}, and * stands for anything"
            )
        found |= fits
    last = arch.num_layers - config.keep_last
    for name in names:
        layer, _ = split_layer(name)
        if layer is not None and (layer < config.keep_first or layer >= last):
            found.add(name)
    return found


def _why_unfit(kind: ServerFormat, outputs: int, inputs: int) -> str:
    if inputs % kind.block:
        return f"rows of {inputs} are not divisible by blocks of {kind.block}"
    if kind.packs_rows and outputs % 2:
        return f"{outputs} rows cannot be packed in pairs"
    return ""
