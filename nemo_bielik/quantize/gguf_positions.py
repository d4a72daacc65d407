"""How a model tells positions apart, as a GGUF file says it: rotary scaling and the context."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError

#: Kind of ``rope_scaling`` → the numbers that it needs.
_FIELDS = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def context_length(source: Checkpoint) -> int:
    """Return the tokens that llama.cpp may see: its llama graph attends to everything.

    Beyond a sliding window it would be another model. Raises `CheckpointError` for a window that
    is no number of tokens.
    """
    longest = source.arch.max_position_embeddings
    window = source.config.get("sliding_window")
    if window is None:
        return longest
    if type(window) is not int or window < 1:
        raise CheckpointError(
            f"{source.directory}: config.json gives sliding_window={window!r}; it must be a "
            "positive integer, or null for none"
        )
    return min(window, longest)


def rotary_scaling(source: Checkpoint) -> tuple[str, dict[str, float]]:
    """Return the kind of rotary scaling ("" for none, linear, llama3) and its numbers by field.

    Raises `CheckpointError` for another kind, and for a number that is missing or senseless.
    """
    where, scaling = f"{source.directory}: config.json", source.config.get("rope_scaling")
    if not isinstance(scaling, Mapping | None):
        raise CheckpointError(f"{where} gives rope_scaling={scaling!r}; it must be an object")
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type", "default"))
    if not scaling or kind == "default":
        return "", {}
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise CheckpointError(
            f"{source.directory}: rope_scaling {kind!r} is not carried over to GGUF; known are "
            f"{' and '.join(_FIELDS)}"
        )
    found = {}
    for field in _FIELDS[kind]:
        value = scaling.get(field)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value < math.inf
        ):
            raise CheckpointError(
                f"{where} gives rope_scaling.{field}={value!r}; {kind} needs a positive number"
            )
        found[field] = float(value)
    if kind == "llama3" and not found["low_freq_factor"] < found["high_freq_factor"]:
        raise CheckpointError(
            f"{where} gives rope_scaling.low_freq_factor={found['low_freq_factor']:g}; it must be "
            f"below high_freq_factor, {found['high_freq_factor']:g}"
        )
    return kind, found


def rotary_factors(source: Checkpoint) -> NDArray[np.float32] | None:
    """Return what Llama 3 divides each pair's frequency by, [head_dim / 2]; None for others."""
    kind, scaling = rotary_scaling(source)
    if kind != "llama3":
        return None
    arch = source.arch
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    trained, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    factors = []
    for channel in range(0, arch.head_dim, 2):
        turns = trained / (2 * math.pi * arch.rope_theta ** (channel / arch.head_dim))
        share = min(1.0, max(0.0, (turns - low) / (high - low)))  # of the unscaled frequency
        factors.append(1 / (share + (1 - share) / factor))
    return np.array(factors, dtype=np.float32)
