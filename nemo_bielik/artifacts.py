"""The values that pass between stages: typed, versioned, hashable, readable without torch.

score → `ScoreTable` (or another method's statistics) → select → `PruningPlan` (what is kept) or
`WeightEdit` (which weights become zero) → slice.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
from nemo_bielik.errors import DataError

SCORES_NAME = "scores.safetensors"
PLAN_NAME = "pruning_plan.json"
EDIT_NAME = "weight_edit.json"


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Importance of every prunable unit, as float64 sums that merge by addition.

    With a[b, s, k] an activation (sample, position, unit), the sums are over samples b of
    (mean over s of |a|)², so that Minitron's L2-over-batch of mean-over-sequence (the report's
    equations 8 and 9) is the square root, taken only when selecting.

    Attributes:
        hidden: [2 · layers, hidden]; rows 2l and 2l+1 are layer l's attention and MLP norm outputs.
        ffn: [layers, ffn]; input of the down projection.
        heads: [layers, heads]; input of the output projection, squares summed within a head.
        cosine: [layers]; sum over tokens of cos(x_l, x_{l+1}), x_l the residual stream entering l.
        samples: number of samples in the first three.
        tokens: number of tokens in `cosine`.
        model: fingerprint of the scored checkpoint.
    """

    arch: ModelArch
    hidden: Float64
    ffn: Float64
    heads: Float64
    cosine: Float64
    samples: int
    tokens: int
    model: str

    def __post_init__(self) -> None:
        layers = self.arch.num_layers
        for name, shape in {
            "hidden": (2 * layers, self.arch.hidden_size),
            "ffn": (layers, self.arch.ffn_hidden_size),
            "heads": (layers, self.arch.num_attention_heads),
            "cosine": (layers,),
        }.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise DataError(
                    f"score table: {name} has shape {array.shape}, not {shape} as the model "
                    f"{self.arch.name} calls for"
                )
            if not np.isfinite(array).all():
                raise DataError(f"score table: {name} holds NaN or infinity; score again")
            if name != "cosine" and (array < 0).any():
                raise DataError(f"score table: {name} holds negative sums of squares; score again")
        if self.samples < 1 or self.tokens < 1:
            raise DataError(
                f"score table: covers {self.samples} samples and {self.tokens} tokens; score again"
            )

    def merge(self, other: Self) -> Self:
        """Add the sums of another shard, rank or language scored on the same model."""
        if self.model != other.model:
            raise DataError("score tables come from different models; score both on the same one")
        return dataclasses.replace(
            self,
            hidden=self.hidden + other.hidden,
            ffn=self.ffn + other.ffn,
            heads=self.heads + other.heads,
            cosine=self.cosine + other.cosine,
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
        )

    def block_influence(self) -> Float64:
        """Return 1 − mean cosine between each layer's input and output (equation 5), [layers]."""
        return 1.0 - self.cosine / self.tokens

    def save(self, path: Path) -> None:
        """Write one safetensors file: float64 arrays, everything else in its header."""
        metadata = {
            "arch": dataclasses.asdict(self.arch),
            "samples": self.samples,
            "tokens": self.tokens,
            "model": self.model,
        }
        arrays = {name: getattr(self, name) for name in ("hidden", "ffn", "heads", "cosine")}
        save_arrays(path, "score table", metadata, arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        metadata, arrays = load_arrays(path, "score table", "bielik score")
        with explain_fields("score table", path):
            return cls(**{**metadata, "arch": ModelArch(**metadata["arch"]), **arrays})


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """What is kept, by index into the source; everything is sorted ascending.

    Attributes:
        layers: kept layers.
        hidden: kept hidden channels, one set for the whole model.
        ffn: kept ffn channels of each kept layer, in the order of `layers`.
        groups: kept query groups of each kept layer.
        heads: kept query heads of each kept layer, whole-model numbering.
        rescale_norms: whether RMSNorm weights are scaled by √(H/H′) and eps by H/H′ when hidden
            channels go, which keeps the function where the cut channels were zero.
        source_model: fingerprint of the checkpoint that the scores came from.
    """

    source: ModelArch
    target: ModelArch
    layers: list[int]
    hidden: list[int]
    ffn: list[list[int]]
    groups: list[list[int]]
    heads: list[list[int]]
    rescale_norms: bool = True
    source_model: str = ""

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        save_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        value = load_json(path, "pruning plan")
        with explain_fields("pruning plan", path):
            archs = {name: ModelArch(**value[name]) for name in ("source", "target")}
            _require_indices(value)
            return cls(**{**value, **archs})


@dataclass(frozen=True, kw_only=True)
class WeightEdit:
    """Which weights of the projections become zero; their values follow from source and scores.

    Attributes:
        method: row of `nemo_bielik.pruning.methods.METHODS` that decides and changes weights.
        sparsity: share of the projections' weights that become zero, within `scope`.
        pattern: ``"2:4"`` keeps 2 of every 4 consecutive inputs of an output; empty: no pattern.
        scope: within what the weights compete, ``layer`` (each tensor) or ``model``.
        damping: SparseGPT's λ as a share of the Hessian's mean diagonal.
        scores: SHA-256 of the statistics that the method needs; empty where it needs none.
        source_model: fingerprint of the checkpoint.
    """

    arch: ModelArch
    method: str
    sparsity: float
    pattern: str = ""
    scope: str = "layer"
    damping: float = 0.01
    scores: str = ""
    source_model: str = ""

    def save(self, path: Path) -> None:
        """Write the edit as JSON."""
        save_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        value = load_json(path, "weight edit")
        with explain_fields("weight edit", path):
            return cls(**{**value, "arch": ModelArch(**value["arch"])})


def _require_indices(value: Mapping[str, Any]) -> None:
    """Raise `TypeError` unless what a plan keeps is lists of whole numbers, or lists of those."""
    flat = [value["layers"], value["hidden"]]
    for field in ("ffn", "groups", "heads"):
        if not isinstance(value[field], list):
            raise TypeError(f"{field} must be a list of lists")
        flat += value[field]
    for indices in flat:
        if not isinstance(indices, list) or not all(type(index) is int for index in indices):
            raise TypeError("what is kept must be lists of whole numbers")
