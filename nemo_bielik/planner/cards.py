"""Which cards a model fits: its weights, the keys and values of a context, and a stated overhead.

``bielik plan --cards``. A card's bandwidth is its bus times its data rate, both published in
NVIDIA's specifications of the card (looked up there or in tables that quote them, none measured
here). Memory chips hold powers of two, so a "24 GB" card has 24 GiB; where error correction is kept
beside the data and is on as delivered (T4, A10, L4), 1/16 of it is gone, as drivers show.
"""

import json as json_format
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.planner.devices import DEVICES, Device
from nemo_bielik.planner.memory import PRECISIONS, kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import rows
from nemo_bielik.planner.specs import resolve_arch
from nemo_bielik.planner.table import align

_GIB = 2**30
_INLINE_ECC = 15 / 16


@dataclass(frozen=True)
class Card:
    """One card: memory as sold, bus width, data rate of a pin in Gbit/s, rated watts."""

    name: str
    memory_gib: int
    bus_bits: int
    gigabits_per_pin: float
    watts: float
    has_inline_ecc: bool = False

    @property
    def memory_bytes(self) -> float:
        """Bytes that programs can have, but for what the driver keeps."""
        return self.memory_gib * _GIB * (_INLINE_ECC if self.has_inline_ecc else 1)

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bus_bits * self.gigabits_per_pin * 1e9 / 8


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card("T4", 16, 256, 10, 70, has_inline_ecc=True),
        Card("RTX-A4000", 16, 256, 14, 140),
        Card("RTX-4060-TI-16GB", 16, 128, 18, 165),
        Card("RTX-4080", 16, 256, 22.4, 320),
        Card("RTX-4080-SUPER", 16, 256, 23, 320),
        Card("RTX-5060-TI-16GB", 16, 128, 28, 180),
        Card("RTX-5070-TI", 16, 256, 28, 300),
        Card("RTX-5080", 16, 256, 30, 360),
        Card("RTX-4000-ADA", 20, 160, 18, 130),
        Card("L4", 24, 192, 12.5, 72, has_inline_ecc=True),
        Card("A10", 24, 384, 12.5, 150, has_inline_ecc=True),
        Card("RTX-4500-ADA", 24, 192, 18, 210),
        Card("RTX-A5000", 24, 384, 16, 230),
        Card("RTX-3090", 24, 384, 19.5, 350),
        Card("RTX-3090-TI", 24, 384, 21, 450),
        Card("RTX-4090", 24, 384, 21, 450),
        Card("RTX-PRO-6000-MAX-Q", 96, 512, 28, 300),
    )
}
#: Bits a weight of formats that store every matrix alike, embeddings too: llama.cpp's blocks of
#: 32 (q8_0: 34 bytes) and 256 weights (q6_k: 210, q5_k: 176, q4_k: 144 bytes). q4_k_m mixes q4_k
#: with q6_k; 4.89 is what Llama-3.1-8B's file has (4.57 of the 14.96 GiB at 16 bits).
BLOCK_BITS = {
    "q8_0": 34 * 8 / 32,
    "q6_k": 210 * 8 / 256,
    "q5_k": 176 * 8 / 256,
    "q4_k_m": 4.89,
}
FORMATS = (*(name for name in PRECISIONS if name != "fp32"), *BLOCK_BITS)
SMALLEST_GIB, LARGEST_GIB = 16, 24


def card_or_device(name: str) -> Card | Device:
    """Return the card or server GPU called `name`; raise `ConfigError` with the nearest one."""
    known: dict[str, Card | Device] = {**DEVICES, **CARDS}
    wanted = name.upper().replace(" ", "-").replace("_", "-")
    if wanted not in known:
        raise ConfigError(
            f"no GPU {name!r} in the tables{nearest(wanted, known)}; known are {', '.join(known)}"
        )
    return known[wanted]


def small_cards() -> list[Card]:
    """Return the cards of 16 to 24 GB."""
    return [c for c in CARDS.values() if SMALLEST_GIB <= c.memory_gib <= LARGEST_GIB]


@dataclass(kw_only=True)
class CardsConfig:
    """Which cards of 16 to 24 GB a model fits, by format, and how long a context each leaves."""

    cards: bool = field(default=False, metadata={"help": "show cards instead of the model's costs"})
    models: tuple[str, ...] = field(
        default=(BIELIK_11B_V3.name, BIELIK_MINITRON_7B.name),
        metadata={"help": "presets or model directories"},
    )
    formats: tuple[str, ...] = field(
        default=FORMATS, metadata={"help": f"how weights are stored: {', '.join(FORMATS)}"}
    )
    context: int = field(default=8192, metadata={"help": "tokens of each sequence"})
    sequences: int = field(default=1, metadata={"help": "sequences at a time"})
    cache_precision: str = field(default="bf16", metadata={"help": "of keys and values: bf16, fp8"})
    overhead_gib: float = field(
        default=1.5,
        metadata={"help": "for the CUDA context, workspaces and activations; our assumption"},
    )
    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})

    def __post_init__(self) -> None:
        for name in ("context", "sequences"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.overhead_gib < 0:
            raise ConfigError(f"overhead_gib is {self.overhead_gib}; it must be 0 or more")
        if self.cache_precision not in ("bf16", "fp8"):
            raise ConfigError(f"cache_precision is {self.cache_precision!r}; known are bf16, fp8")
        for one in self.formats:
            if one not in FORMATS:
                raise ConfigError(
                    f"formats: no {one!r}{nearest(one, FORMATS)}; known are {', '.join(FORMATS)}"
                )


def stored_bytes(arch: ModelArch, storage: str) -> int:
    """Return the bytes of the weights of `arch` stored in a format of `FORMATS`.

    Norms, which have one axis, stay at 32 bits in llama.cpp's formats.
    """
    if storage in PRECISIONS:
        return weights_bytes(arch, storage)
    bits = sum(
        row.numel * (BLOCK_BITS[storage] if len(row.shape) > 1 else 32) for row in rows(arch)
    )
    return round(bits / 8)


def bits_per_weight(arch: ModelArch, storage: str) -> float:
    """Return the bits that a weight of `arch` takes on average."""
    return stored_bytes(arch, storage) * 8 / sum(row.numel for row in rows(arch))


def longest_context(arch: ModelArch, storage: str, card: Card, config: CardsConfig) -> int:
    """Return how many tokens of every sequence fit beside weights and overhead; 0 if none."""
    return context_beside(arch, stored_bytes(arch, storage), card, config)


def context_beside(arch: ModelArch, weights: int, card: Card, config: CardsConfig) -> int:
    """Return how many tokens of every sequence fit beside so many bytes of weights; 0 if none."""
    free = card.memory_bytes - weights - config.overhead_gib * _GIB
    one = kv_cache_bytes(arch, config.cache_precision, 1, config.sequences)
    return min(max(0, int(free // one)), arch.max_position_embeddings)


def fit(config: CardsConfig) -> dict[str, Any]:
    """Return, for each model and format, the bytes needed and what every card of 16–24 GB holds."""
    cards = small_cards()
    models = []
    for spec in config.models:
        arch = resolve_arch(spec)
        _check_context(arch, config)
        cache = kv_cache_bytes(arch, config.cache_precision, config.context, config.sequences)
        formats = []
        for storage in config.formats:
            longest = {c.name: longest_context(arch, storage, c, config) for c in cards}
            formats.append(
                {
                    "format": storage,
                    "bits_per_weight": round(bits_per_weight(arch, storage), 3),
                    "weights_bytes": stored_bytes(arch, storage),
                    "kv_cache_bytes": cache,
                    "fits": [name for name, tokens in longest.items() if tokens >= config.context],
                    "longest_context": longest,
                }
            )
        models.append({"name": arch.name, "formats": formats})
    return {
        "context": config.context,
        "sequences": config.sequences,
        "overhead_bytes": round(config.overhead_gib * _GIB),
        "cards": [
            {
                "name": card.name,
                "memory_bytes": round(card.memory_bytes),
                "bandwidth": card.bandwidth,
                "watts": card.watts,
            }
            for card in cards
        ],
        "models": models,
    }


def _check_context(arch: ModelArch, config: CardsConfig) -> None:
    if config.context > arch.max_position_embeddings:
        raise ConfigError(
            f"context is {config.context}; {arch.name} knows {arch.max_position_embeddings} "
            "positions"
        )


def print_cards(config: CardsConfig) -> None:
    """Print which cards fit."""
    found = fit(config)
    print(json_format.dumps(found, indent=2) if config.json else format_cards(found))


def format_cards(found: dict[str, Any]) -> str:
    """Return one table for each model: cards by formats, the longest context in each cell."""
    parts = [_model_table(model, found) for model in found["models"]]
    parts.append(
        f"A cell is the longest context in tokens, {found['sequences']} sequence(s) at a time; in "
        f"brackets where it is below the {found['context']:,} asked for, - where the weights alone "
        f"are too large.\nCounted are weights, keys and values, and "
        f"{found['overhead_bytes'] / _GIB:g} GiB for everything else (an assumption)."
    )
    return "\n\n".join(parts)


def _model_table(model: dict[str, Any], found: dict[str, Any]) -> str:
    formats = model["formats"]
    head = ["card", "GiB", "GB/s", *(one["format"] for one in formats)]
    body = [
        ["weights", "", "", *(f"{one['weights_bytes'] / _GIB:.2f}" for one in formats)],
        ["bits a weight", "", "", *(f"{one['bits_per_weight']:.2f}" for one in formats)],
    ]
    for card in found["cards"]:
        cells = [_cell(one["longest_context"][card["name"]], found["context"]) for one in formats]
        memory = f"{card['memory_bytes'] / _GIB:g}"
        body.append([card["name"], memory, f"{card['bandwidth'] / 1e9:.0f}", *cells])
    cache = formats[0]["kv_cache_bytes"] / _GIB
    title = (
        f"{model['name']}: weights in GiB; {found['context']:,} tokens of cache: {cache:.2f} GiB"
    )
    return f"{title}\n{align(head, body)}"


def _cell(tokens: int, wanted: int) -> str:
    if not tokens:
        return "-"
    return f"{tokens:,}" if tokens >= wanted else f"({tokens:,})"
