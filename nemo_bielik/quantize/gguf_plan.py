"""What each file will be, before one is written: llama.cpp's own choice of types, and the bytes.

llama.cpp's quantiser chooses a type for every tensor from names and shapes alone. It is asked with
a file that has all of the header and a hole in place of the weights.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import StorageError
from nemo_bielik.files import disk_trouble
from nemo_bielik.quantize.formats import QuantizedFormat
from nemo_bielik.quantize.gguf_file import write_outline
from nemo_bielik.quantize.gguf_tensors import native_type, type_bytes
from nemo_bielik.quantize.llama_cpp import plan_types
from nemo_bielik.quantize.table import grouped


@dataclass(frozen=True)
class FilePlan:
    """One file to come.

    Attributes:
        num_bytes: of the whole file.
        shapes: of every tensor by GGUF name, rows last.
        types: of every tensor by GGUF name.
    """

    wanted: QuantizedFormat
    num_bytes: int
    shapes: dict[str, tuple[int, ...]]
    types: dict[str, str] = field(repr=False)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight takes on average."""
        return (
            8
            * sum(_bytes(self.shapes[name], kind) for name, kind in self.types.items())
            / (self.weights)
        )

    @property
    def shares(self) -> dict[str, float]:
        """Share of the weights in each type, the largest first."""
        counts: Counter[str] = Counter()
        for name, kind in self.types.items():
            counts[kind] += math.prod(self.shapes[name])
        return {kind: count / self.weights for kind, count in counts.most_common()}

    @property
    def named_share(self) -> float:
        """Share of the weights in the type that the format is named after."""
        return self.shares.get(self.wanted.block_type, 0.0)

    @property
    def indivisible(self) -> dict[str, str]:
        """Matrices whose rows are no whole blocks of the format's type → the type used instead."""
        block, _ = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[self.wanted.block_type]]
        return {
            name: self.types[name]
            for name, shape in self.shapes.items()
            if len(shape) > 1 and shape[-1] % block
        }

    def figures(self) -> dict[str, Any]:
        """Return what the table and the manifest say of the file."""
        return {
            "format": self.wanted.name,
            "bytes": self.num_bytes,
            "bits_per_weight": self.bits_per_weight,
            "named_type": self.wanted.block_type,
            "named_share": self.named_share,
            "shares": self.shares,
            "indivisible": self.indivisible,
        }

    def line(self) -> str:
        """Return one line about the file."""
        others = [f"{kind} {share:.1%}" for kind, share in self.shares.items()]
        line = (
            f"{self.wanted.name:<8} {self.num_bytes:>15,} bytes {self.bits_per_weight:>6.2f} bits "
            f"a weight; {self.named_share:.1%} of them {self.wanted.block_type} "
            f"(all: {', '.join(others)})"
        )
        if self.indivisible:
            line += f"; rows that do not divide: {grouped(self.indivisible)}"
        return line


def plan_files(
    source: Checkpoint, formats: Sequence[QuantizedFormat], has_importance: bool = False
) -> list[FilePlan]:
    """Return the plan of every format; nothing of the weights is read.

    llama.cpp may choose other types where there is an importance matrix. Raises `StorageError` if
    the temporary folder takes no file.
    """
    try:
        with TemporaryDirectory() as folder:
            outline = Path(folder) / "outline.gguf"
            return [_plan(source, wanted, outline, has_importance) for wanted in formats]
    except OSError as error:
        if not (disk_trouble(error) or isinstance(error, FileNotFoundError)):
            raise
        raise StorageError(
            f"the temporary folder takes no outline of a file ({error.strerror}); free some space "
            "there, or name another folder in TMPDIR"
        ) from None


def read_file(path: Path, wanted: QuantizedFormat) -> FilePlan:
    """Return what a file in the format `wanted` is, from its header."""
    reader = gguf.GGUFReader(path)
    shapes = {one.name: tuple(int(n) for n in reversed(one.shape)) for one in reader.tensors}
    types = {one.name: one.tensor_type.name for one in reader.tensors}
    return FilePlan(wanted, path.stat().st_size, shapes, types)


def _plan(
    source: Checkpoint, wanted: QuantizedFormat, outline: Path, has_importance: bool
) -> FilePlan:
    write_outline(source, wanted.name if wanted.maker == "gguf" else native_type(source), outline)
    reader = gguf.GGUFReader(outline)
    start, alignment = int(reader.data_offset), int(reader.alignment)
    del reader
    plan = read_file(outline, wanted)
    if wanted.maker == "gguf":
        return plan
    ones = {
        name: np.ones(shape[-1], np.float32)
        for name, shape in plan.shapes.items()
        if has_importance and name.startswith("blk.") and len(shape) > 1
    }
    types = plan_types(outline, wanted, ones)
    sizes = (_bytes(plan.shapes[name], kind) for name, kind in types.items())
    total = start + sum(-(-size // alignment) * alignment for size in sizes)
    return FilePlan(wanted, total, plan.shapes, types)


def _bytes(shape: tuple[int, ...], kind: str) -> int:
    return type_bytes(shape, GGMLQuantizationType[kind])
