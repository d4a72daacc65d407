"""What reaches the projections on calibration text: input norms (Wanda), Hessians (SparseGPT).

A layer's seven projections read four different inputs; each is named after who reads it.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import (
    Float64,
    explain_fields,
    load_arrays,
    load_json,
    save_arrays,
    save_json,
)
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.tensors import TensorRow, axis_sizes, split_layer

if TYPE_CHECKING:
    from torch import Tensor

INPUT_NORMS_NAME = "input_norms.safetensors"
HESSIANS_NAME = "hessians.json"
_NORMS_KIND = "table of input norms"

#: Every input of a layer → the axis that it runs along.
INPUTS = {"qkv_proj": "hidden", "o_proj": "heads", "gate_up_proj": "hidden", "down_proj": "ffn"}
_READERS = {
    "self_attn.q_proj.weight": "qkv_proj",
    "self_attn.k_proj.weight": "qkv_proj",
    "self_attn.v_proj.weight": "qkv_proj",
    "self_attn.o_proj.weight": "o_proj",
    "mlp.gate_proj.weight": "gate_up_proj",
    "mlp.up_proj.weight": "gate_up_proj",
    "mlp.down_proj.weight": "down_proj",
}


def input_of(row: TensorRow) -> str:
    """Return the key of `INPUTS` that a projection reads."""
    return _READERS[split_layer(row.name)[1]]


def input_sizes(arch: ModelArch) -> dict[str, int]:
    """Return the width of every input of a layer."""
    return {name: axis_sizes(arch)[axis] for name, axis in INPUTS.items()}


@dataclass(frozen=True, kw_only=True)
class InputNorms:
    """Sums of squares of every input of every projection, which merge by addition.

    Attributes:
        squares: [layers, in] for every key of `INPUTS`: Σ x² over the tokens.
        tokens: number of tokens, all that the model saw.
        model: fingerprint of the model.
    """

    arch: ModelArch
    squares: dict[str, Float64]
    tokens: int
    model: str

    def __post_init__(self) -> None:
        for name, size in input_sizes(self.arch).items():
            array, shape = self.squares[name], (self.arch.num_layers, size)
            if array.shape != shape:
                raise DataError(
                    f"input norms: {name} has shape {array.shape}, not {shape} as the model "
                    f"{self.arch.name} calls for"
                )
            if not (np.isfinite(array) & (array >= 0)).all():
                raise DataError(f"input norms: {name} holds no sums of squares; score again")
        if self.tokens < 1:
            raise DataError(f"input norms: cover {self.tokens} tokens; score again")

    def of(self, row: TensorRow) -> Float64:
        """Return ‖X_j‖₂ of every input j of a projection, [in]."""
        norms: Float64 = np.sqrt(self.squares[input_of(row)][row.layer])
        return norms

    def merge(self, other: Self) -> Self:
        """Add what was collected on other text; raise `DataError` unless on the same model."""
        if self.model != other.model:
            raise DataError("input norms come from different models; score both on the same one")
        squares = {name: self.squares[name] + other.squares[name] for name in INPUTS}
        return dataclasses.replace(self, squares=squares, tokens=self.tokens + other.tokens)

    def require_model(self, source: Checkpoint) -> None:
        """Raise `DataError` unless these were collected on `source`."""
        _require_model(self.model, source, "wanda")

    def save(self, path: Path) -> None:
        """Write one safetensors file: float64 arrays, everything else in its header."""
        metadata = {
            "arch": dataclasses.asdict(self.arch),
            "tokens": self.tokens,
            "model": self.model,
        }
        save_arrays(path, _NORMS_KIND, metadata, self.squares)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        metadata, arrays = load_arrays(path, _NORMS_KIND, "bielik score --method wanda")
        with explain_fields(_NORMS_KIND, path):
            return cls(squares=arrays, **{**metadata, "arch": ModelArch(**metadata["arch"])})


@dataclass(frozen=True, kw_only=True)
class Hessians:
    """Where the matrices Σ x xᵀ of every layer lie: one safetensors file a layer.

    A matrix is float32 [in, in], one for every key of `INPUTS`, summed over the tokens. Bielik-11B
    takes 1.02 GB a layer, 51 GB in all; a reader holds one matrix at a time.

    Attributes:
        layers: SHA-256 of every layer's file.
        tokens: number of tokens, all that the model saw.
        model: fingerprint of the model.
        directory: where the files lie.
    """

    arch: ModelArch
    layers: list[str]
    tokens: int
    model: str
    directory: Path
    _checked: set[int] = field(default_factory=set, init=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.layers) != self.arch.num_layers:
            raise DataError(
                f"lists {len(self.layers)} layers where the model has {self.arch.num_layers}; "
                "score again"
            )

    def read(self, layer: int, name: str) -> "Tensor":
        """Return the matrix of input `name` in `layer`; raise `DataError` if the file is damaged.

        A layer's file is hashed when it is first read.
        """
        from safetensors import safe_open

        path = self.directory / hessian_file(layer)
        if layer not in self._checked:
            if not path.is_file() or file_sha256(path) != self.layers[layer]:
                raise DataError(
                    f"{path}: is missing or was changed since it was made; run "
                    "`bielik score --method sparsegpt` again"
                )
            self._checked.add(layer)
        with safe_open(path, framework="pt") as stored:
            matrix: Tensor = stored.get_tensor(name)
        return matrix

    def require_model(self, source: Checkpoint) -> None:
        """Raise `DataError` unless these were collected on `source`."""
        _require_model(self.model, source, "sparsegpt")

    def save(self) -> None:
        """Write the list of files into their directory."""
        value: dict[str, Any] = {
            "arch": dataclasses.asdict(self.arch),
            "layers": self.layers,
            "tokens": self.tokens,
            "model": self.model,
        }
        save_json(self.directory / HESSIANS_NAME, value)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        path = directory / HESSIANS_NAME
        value = load_json(path, "list of Hessians")
        with explain_fields("list of Hessians", path):
            arch = ModelArch(**value["arch"])
            return cls(**{**value, "arch": arch, "directory": directory})


def hessian_file(layer: int) -> str:
    """Return the name of the file with the matrices of `layer`."""
    return f"layer-{layer:05d}.safetensors"


def hessian_bytes(arch: ModelArch) -> int:
    """Return the bytes of all matrices of a model."""
    return 4 * arch.num_layers * sum(size * size for size in input_sizes(arch).values())


def _require_model(fingerprint: str, source: Checkpoint, method: str) -> None:
    if fingerprint != source.fingerprint():
        raise DataError(
            f"these scores are of another model than {source.directory}; score this one with "
            f"`bielik score --method {method}`"
        )
