"""A checkpoint's tensors as GGUF names and stores them, block by block.

Names come from the `gguf` library's own maps. Values stay what they are but for two things: llama
models rotate pairs of neighbouring channels where Hugging Face rotates the first half of a head
against the second, so rows of queries and keys change places within their head; and what has one
axis is stored in 32 bits, because llama.cpp computes with norms in no other type.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError
from nemo_bielik.tensor_files import Raw, StoredTensor
from nemo_bielik.tensors import split_layer, tensor_rows

#: Our families → the graph that llama.cpp runs them by.
GRAPHS = {"llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA}
_TYPES = {
    "F64": GGMLQuantizationType.F32,
    "F32": GGMLQuantizationType.F32,
    "F16": GGMLQuantizationType.F16,
    "BF16": GGMLQuantizationType.BF16,
}
#: A quarter of what slicing takes at a time: converting halves its system time by it.
_BLOCK_BYTES = 2**20
_LARGEST_F16 = 65504.0


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of a GGUF file: its name there, its source, its type, and heads to permute."""

    name: str
    source: StoredTensor
    kind: GGMLQuantizationType
    head_dim: int | None

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return type_bytes(self.source.shape, self.kind)

    def blocks(self) -> Iterator[Raw]:
        """Yield the data in order, about a megabyte at a time; a block is overwritten by the next.

        Raises `CheckpointError` for NaN, infinity, a damaged file, or a value beyond F16.
        """
        convert = _converter(self.source, self.kind)
        for raw in self.source.row_blocks(self._block_bytes()):
            yield convert(raw if self.head_dim is None else _permuted(raw, self.head_dim))

    def _block_bytes(self) -> int:
        if self.head_dim is None:
            return _BLOCK_BYTES
        head = self.head_dim * self.source.num_bytes // self.source.shape[0]
        return max(1, _BLOCK_BYTES // head) * head  # whole heads


def native_type(source: Checkpoint) -> str:
    """Return the unquantised format that holds every weight of `source` exactly."""
    stored = {tensor.dtype for tensor in source.tensors.values() if len(tensor.shape) > 1}
    return stored.pop() if stored in ({"BF16"}, {"F16"}) else "F32"


def gguf_tensors(source: Checkpoint, base: str) -> list[GgufTensor]:
    """Return the tensors of `source` in file order; matrices are stored as `base` (``"BF16"``).

    Raises `CheckpointError` for an architecture or a tensor that llama.cpp has no place for.
    """
    arch = source.arch
    names = gguf.get_tensor_name_map(graph(arch), arch.num_layers)
    found = []
    for row in tensor_rows(arch):
        name = names.get_name(row.name, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise CheckpointError(
                f"{source.directory}: llama.cpp has no place for {row.name} in its "
                f"{gguf.MODEL_ARCH_NAMES[graph(arch)]} graph; the model cannot be a GGUF file"
            )
        stored = source.tensors[row.name]
        kind = _TYPES[base] if len(row.shape) > 1 else GGMLQuantizationType.F32
        found.append(GgufTensor(name, stored, kind, _permuted_heads(arch, row.name)))
    return found


def graph(arch: ModelArch) -> gguf.MODEL_ARCH:
    """Return llama.cpp's graph for `arch`; raise `CheckpointError` if it has none."""
    if arch.model_type not in GRAPHS:
        raise CheckpointError(
            f"{arch.name}: architecture {arch.model_type!r} has no row in the table of llama.cpp's "
            f"graphs; known are {', '.join(GRAPHS)}"
        )
    return GRAPHS[arch.model_type]


def type_bytes(shape: tuple[int, ...], kind: GGMLQuantizationType) -> int:
    """Return the bytes of a tensor whose rows are whole blocks of `kind`."""
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    return int(math.prod(shape) // weights * size)


def _permuted_heads(arch: ModelArch, name: str) -> int | None:
    _, suffix = split_layer(name)
    is_rotated = suffix.startswith(("self_attn.q_proj.", "self_attn.k_proj."))
    return arch.head_dim if is_rotated else None


def _permuted(raw: Raw, head_dim: int) -> Raw:
    """Interleave the two halves of every head's rows: (0, d/2, 1, d/2 + 1, …)."""
    heads = raw.reshape(-1, 2, head_dim // 2, raw.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(raw.shape)


def _converter(source: StoredTensor, kind: GGMLQuantizationType) -> Callable[[Raw], Raw]:
    """Return the function from raw source elements to elements of `kind`."""
    if source.dtype in ("F32", "F16", "BF16") and _TYPES[source.dtype] == kind:
        return lambda raw: raw

    def convert(raw: Raw) -> Raw:
        values = _to_float32(source, raw)
        if kind == GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > _LARGEST_F16:
            raise CheckpointError(
                f"{source.shard.parent}: {source.name} holds values beyond F16's {_LARGEST_F16:g}; "
                "take BF16 instead"
            )
        return np.ascontiguousarray(gguf.quantize(values, kind))

    return convert


def _to_float32(source: StoredTensor, raw: Raw) -> np.ndarray[Any, np.dtype[np.float32]]:
    if source.dtype == "BF16":  # the upper half of a float32
        return (raw.astype("<u4") << 16).view("<f4")
    if source.dtype == "F32":
        return raw.view("<f4")
    return source.format.to_float64(raw).astype("<f4")
