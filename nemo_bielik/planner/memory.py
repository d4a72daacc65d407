"""Bytes of weights and of the key/value cache, by precision.

Quantised formats store the linear layers of the blocks; embeddings, the output projection and
norms stay in bf16, as NVIDIA's deployment recipes leave them. A format's scales are counted:

* ``fp8``    8 bits an element, one fp32 scale a tensor
* ``nvfp4``  4 bits an element, one 8-bit (E4M3) scale per 16 elements of an input row, one fp32
  scale a tensor: 4.5 bits an element
"""

from dataclasses import dataclass

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.parameters import is_linear, rows


@dataclass(frozen=True)
class Precision:
    """A storage format: bits an element, elements that share a one-byte scale, tensor scales."""

    bits: int
    block: int | None = None
    tensor_scale_bytes: int = 0

    def row_bytes(self, width: int) -> int:
        """Bytes of `width` neighbouring elements with their block scales."""
        scales = -(-width // self.block) if self.block else 0
        return -(-width * self.bits // 8) + scales


PRECISIONS: dict[str, Precision] = {
    "fp32": Precision(32),
    "bf16": Precision(16),
    "fp8": Precision(8, tensor_scale_bytes=4),
    "nvfp4": Precision(4, block=16, tensor_scale_bytes=4),
}
#: What stays unquantised is stored so.
_UNQUANTISED = PRECISIONS["bf16"]


def weights_bytes(arch: ModelArch, precision: str) -> int:
    """Return the bytes of a checkpoint of `arch` stored in `precision` (a key of PRECISIONS)."""
    chosen = PRECISIONS[precision]
    total = 0
    for row in rows(arch):
        quantised = chosen.bits >= _UNQUANTISED.bits or is_linear(row)
        storage = chosen if quantised else _UNQUANTISED
        lines = row.numel // row.shape[-1]
        total += lines * storage.row_bytes(row.shape[-1]) + storage.tensor_scale_bytes
    return total


def kv_cache_bytes(arch: ModelArch, precision: str, context: int, sequences: int = 1) -> int:
    """Return the bytes of keys and values for `sequences` of `context` tokens.

    2 (keys, values) × layers × query groups × one head's row. A cache's tensor scales are a few
    bytes a layer whatever its length, and are left out.
    """
    head_bytes = PRECISIONS[precision].row_bytes(arch.head_dim)
    return 2 * arch.num_layers * arch.num_query_groups * head_bytes * context * sequences
