"""What a loss's gradients say of every tensor along each of its axes: LLM-Pruner's statistics.

Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models" (2023); the report's
equation 6. Readable without torch; `gradients_mcore` makes it.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import Float64, explain_fields, load_arrays, save_arrays
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.groups import Member, coupled_groups
from nemo_bielik.pruning.select import axis_length

TAYLOR_NAME = "taylor.safetensors"
#: First order |g ⊙ w|, and with the Fisher term |g ⊙ w − ½ Σ_j (g_j ⊙ w)²|.
ORDERS = ("first", "fisher")
_KIND = "Taylor table"
_COMMAND = "bielik score --method llm-pruner"


@dataclass(frozen=True, kw_only=True)
class TaylorTable:
    """Salience of every tensor along each of its axes, for both orders of the expansion.

    The salience of one weight is by how much the loss is expected to change without it: |g·w|, or
    |g·w − ½ Σ_j (g_j·w)²|. g is the gradient of the mean next-token loss over all counted
    calibration tokens T. g_j is that of sample j's summed loss divided by √T, so that Σ_j g_j² is
    the empirical Fisher information of a token, which stands for the Hessian's diagonal of the mean
    loss. A unit's salience in a tensor is the sum over its weights there.

    Two tables cannot be added: |g + g′| is not |g| + |g′|.

    Attributes:
        salience: by order and `entry` of a member (``mlp.up_proj.weight/ffn``); [layers, units], or
            [1, units] outside the layers, and [layers] for a whole tensor (``…/layer``).
        samples: calibration sequences.
        tokens: tokens that had a loss, T above.
        model: fingerprint of the scored checkpoint.
    """

    arch: ModelArch
    salience: Mapping[str, Mapping[str, Float64]]
    samples: int
    tokens: int
    model: str

    def __post_init__(self) -> None:
        shapes = salience_shapes(self.arch)
        for order in ORDERS:
            found = self.salience.get(order, {})
            if found.keys() != shapes.keys():
                differing = ", ".join(sorted(found.keys() ^ shapes.keys())[:3])
                raise DataError(
                    f"Taylor table: its entries of order {order} are not those of "
                    f"{self.arch.name} ({differing}); score again"
                )
            for name, array in found.items():
                _check_entry(f"{order}/{name}", array, shapes[name])
        if self.samples < 1 or self.tokens < 1:
            raise DataError(
                f"Taylor table: covers {self.samples} samples and {self.tokens} tokens; score again"
            )

    def save(self, path: Path) -> None:
        """Write one safetensors file: float64 arrays, everything else in its header."""
        metadata = {
            "arch": dataclasses.asdict(self.arch),
            "samples": self.samples,
            "tokens": self.tokens,
            "model": self.model,
        }
        arrays = {
            f"{order}/{name}": array
            for order in ORDERS
            for name, array in self.salience[order].items()
        }
        save_arrays(path, _KIND, metadata, arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        metadata, arrays = load_arrays(path, _KIND, _COMMAND)
        salience: dict[str, dict[str, Float64]] = {order: {} for order in ORDERS}
        with explain_fields(_KIND, path):
            for name, array in arrays.items():
                order, _, entry = name.partition("/")
                salience[order][entry] = array
            arch = ModelArch(**metadata["arch"])
            return cls(**{**metadata, "arch": arch, "salience": salience})


def entry(member: Member) -> str:
    """Return the name of a member's array: ``mlp.down_proj.weight/ffn``."""
    return f"{member.tensor}/{member.axis}"


def salience_shapes(arch: ModelArch) -> dict[str, tuple[int, ...]]:
    """Return the shape of every entry of a table of `arch`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for members in coupled_groups(arch).values():
        for member in members:
            rows = 1 if member.tensor.startswith(("model.", "lm_head.")) else arch.num_layers
            units = () if member.dim is None else (axis_length(arch, member.axis),)
            shapes[entry(member)] = (rows, *units)
    return shapes


def _check_entry(name: str, array: Float64, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise DataError(
            f"Taylor table: {name} has shape {array.shape}, not {shape} as the model calls for"
        )
    if not np.isfinite(array).all():
        raise DataError(f"Taylor table: {name} holds NaN or infinity; score again")
    if (array < 0).any():
        raise DataError(f"Taylor table: {name} holds negative saliences; score again")
