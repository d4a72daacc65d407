"""Safetensors files by plain reads: headers, and tensors in blocks of rows.

The safetensors library maps whole files, and mapped pages count as resident memory. Here a tensor
of any size passes through one small buffer. Elements stay raw unsigned integers: taking rows and
columns, and telling NaN and infinity, needs no arithmetic and no torch.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.errors import CheckpointError

#: Small enough to stay in a core's cache between reading, checking, cutting and hashing.
BLOCK_BYTES = 4 * 2**20
_HEADER_ALIGNMENT = 8
Raw = NDArray[Any]


@dataclass(frozen=True)
class ElementFormat:
    """How safetensors stores a floating-point type.

    Attributes:
        raw: unsigned integer of the same width.
        infinity: bits of +∞; whatever has these or more below its sign bit is ∞ or NaN.
        torch_name: name of the type in torch.
    """

    raw: np.dtype[Any]
    infinity: int
    torch_name: str

    def to_float64(self, raw: Raw) -> NDArray[np.float64]:
        """Return the values that `raw` holds."""
        if self.torch_name == "bfloat16":  # the upper half of a float32
            return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
        return raw.view(f"<f{self.raw.itemsize}").astype(np.float64)

    def from_float64(self, values: NDArray[np.float64]) -> Raw:
        """Round `values` to even as torch does: narrow types by way of float32."""
        if self.raw.itemsize == 8:
            return values.view(self.raw)
        singles = values.astype("<f4")
        if self.torch_name == "bfloat16":
            bits = singles.view("<u4")
            rounded: Raw = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return rounded.astype(self.raw)
        return singles.astype(f"<f{self.raw.itemsize}").view(self.raw)

    def all_finite(self, raw: Raw) -> bool:
        """Return whether no element of `raw` (any shape) is NaN or infinite.

        As signed integers the largest is the largest positive number; as unsigned ones it is the
        negative number of largest magnitude. So two maxima tell, without a temporary array.
        """
        signed = np.dtype(f"<i{self.raw.itemsize}")
        sign = 1 << (8 * self.raw.itemsize - 1)
        largest, smallest = raw.view(signed).max(initial=0), raw.max(initial=0)
        return int(largest) < self.infinity and int(smallest) < sign + self.infinity


FORMATS: dict[str, ElementFormat] = {
    "F64": ElementFormat(np.dtype("<u8"), 0x7FF0_0000_0000_0000, "float64"),
    "F32": ElementFormat(np.dtype("<u4"), 0x7F80_0000, "float32"),
    "F16": ElementFormat(np.dtype("<u2"), 0x7C00, "float16"),
    "BF16": ElementFormat(np.dtype("<u2"), 0x7F80, "bfloat16"),
}


@dataclass(frozen=True)
class NewTensor:
    """A tensor about to be written: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * FORMATS[self.dtype].raw.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its shard, safetensors dtype (``"F32"``, ``"BF16"``) and shape.

    `offset` counts bytes from the start of the shard.
    """

    name: str
    shard: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int

    @property
    def format(self) -> ElementFormat:
        """The element format; raise `CheckpointError` if it is none of `FORMATS`."""
        if self.dtype not in FORMATS:
            raise CheckpointError(
                f"{self.shard}: {self.name} is stored as {self.dtype}; supported are "
                f"{', '.join(FORMATS)}; convert the model to one of them"
            )
        return FORMATS[self.dtype]

    def to_write(self, name: str, shape: tuple[int, ...]) -> NewTensor:
        """Return a tensor of this dtype; raise `CheckpointError` if it is none of `FORMATS`."""
        assert self.format
        return NewTensor(name, self.dtype, shape)

    def row_blocks(self, block_bytes: int | None = None) -> Iterator[Raw]:
        """Yield the tensor from its first row to its last as raw [rows, columns] blocks.

        A vector is read as a column. A block lives in a buffer that the next one overwrites, and
        holds at most `block_bytes` (`BLOCK_BYTES` if not given), but at least one row. Raises
        `CheckpointError` if the file is unreadable or the block holds NaN or infinity.
        """
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        step = min(rows, max(1, (block_bytes or BLOCK_BYTES) * rows // self.num_bytes))
        buffer = np.empty((step, columns), self.format.raw)
        try:
            with self.shard.open("rb") as stream:
                stream.seek(self.offset)
                for start in range(0, rows, step):
                    block = buffer[: rows - start]
                    if stream.readinto(block.data) < block.nbytes:
                        raise CheckpointError(f"{self.shard}: truncated; copy it again")
                    self._require_finite(block)
                    yield block
        except OSError as error:
            raise CheckpointError(
                f"{self.shard}: cannot be read ({error}); copy it again"
            ) from None

    def _require_finite(self, raw: Raw) -> None:
        if not self.format.all_finite(raw):
            raise CheckpointError(
                f"{self.shard.parent}: {self.name} holds NaN or infinite weights; the source is "
                "damaged or its training diverged"
            )


def header_bytes(tensors: Sequence[NewTensor]) -> bytes:
    """Return the start of a safetensors file whose data are `tensors`, in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.num_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def read_header(shard: Path) -> dict[str, StoredTensor]:
    """Read a safetensors header and check that the file is as long as it says."""
    header, data_start = _parse_header(shard)
    try:
        tensors = {name: _stored(name, shard, data_start, header[name]) for name in header}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(f"{shard}: damaged safetensors header; copy it again") from None
    size = shard.stat().st_size
    if data_start + end != size:
        raise CheckpointError(
            f"{shard}: truncated: holds {size:,} bytes where its header calls for "
            f"{data_start + end:,}; copy it again"
        )
    return tensors


def _stored(name: str, shard: Path, data_start: int, entry: dict[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype in FORMATS and end - start != NewTensor(name, dtype, shape).num_bytes:
        raise ValueError
    return StoredTensor(name, shard, dtype, shape, data_start + start, end - start)


def _parse_header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and the offset at which its data start."""
    size = shard.stat().st_size
    with shard.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise CheckpointError(f"{shard}: truncated or not a safetensors file; copy it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise CheckpointError(f"{shard}: damaged safetensors header; copy it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard}: damaged safetensors header; copy it again")
    header.pop("__metadata__", None)
    return header, 8 + length
