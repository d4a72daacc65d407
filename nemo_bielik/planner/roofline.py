"""How long a token takes where memory is the limit: every weight is read once for each.

At batch 1 a GPU multiplies a vector by every matrix, and waits for memory all the time. Seconds per
token are the bytes read over the bandwidth that is reached: all weights but the input embedding, of
which one row is read, and the keys and values of the context. What share of its bandwidth a GPU
reaches is fitted on one model and holds for its smaller sister; the time to the first token, in
which matrices meet matrices, is not explained by this.
"""

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.memory import PRECISIONS, kv_cache_bytes, weights_bytes


def bytes_per_token(arch: ModelArch, precision: str, context: int = 0) -> int:
    """Return the bytes that one token of one sequence reads, after `context` others."""
    total = weights_bytes(arch, precision)
    if not arch.tie_word_embeddings:
        bits = max(PRECISIONS[precision].bits, PRECISIONS["bf16"].bits)
        total -= (arch.vocab_size - 1) * arch.hidden_size * bits // 8
    return total + kv_cache_bytes(arch, "bf16", context)


def fitted_bandwidth(
    arch: ModelArch, precision: str, seconds_per_token: float, context: int = 0
) -> float:
    """Return the bytes/s that a measured time per output token means."""
    return bytes_per_token(arch, precision, context) / seconds_per_token


def seconds_per_token(arch: ModelArch, precision: str, bandwidth: float, context: int = 0) -> float:
    """Return the predicted time per output token at `bandwidth` bytes/s, the one reached."""
    return bytes_per_token(arch, precision, context) / bandwidth
