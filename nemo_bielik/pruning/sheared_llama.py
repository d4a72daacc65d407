"""Sheared LLaMA: learned masks rank layers, hidden and ffn channels, heads and query groups.

Xia et al., "Sheared LLaMA: Accelerating Language Model Pre-training via Structured Pruning"
(2023), the report's equation 7. `bielik score --method sheared-llama` learns one hard-concrete
mask for each unit by gradient descent on the next-token loss, under Lagrangians that hold the
expected shape to the target. One thing differs from the paper: it trains the weights at the same
time; here they stay frozen, so that the masks belong to the scored checkpoint and every method
can recover by the same training afterwards.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import Float64, explain_fields, load_arrays, save_arrays
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.pruning.change import target_arch
from nemo_bielik.pruning.select import PRUNABLE, Importance, best
from nemo_bielik.pruning.shearing import mask_shapes, open_counts, tolerance

if TYPE_CHECKING:
    from nemo_bielik.pruning.prune import PruneConfig

MASKS_NAME = "masks.safetensors"
_COMMAND = "bielik score --method sheared-llama"


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """What was learned of every unit of a kind that the target calls to cut.

    Attributes:
        arch: the scored model's.
        target: the shape that the masks were learned for.
        log_alpha: by kind (`shearing.mask_shapes`): log α, which orders the units.
        open_probability: P(z ≠ 0), what the constraints count; same kinds and shapes.
        expected: E[z]; same kinds and shapes.
        model: fingerprint of the scored checkpoint.
    """

    arch: ModelArch
    target: ModelArch
    log_alpha: Mapping[str, Float64]
    open_probability: Mapping[str, Float64]
    expected: Mapping[str, Float64]
    model: str

    def __post_init__(self) -> None:
        shapes = mask_shapes(self.arch)
        wanted = {name: shapes[name] for name in open_counts(self.arch, self.target)}
        for field in ("log_alpha", "open_probability", "expected"):
            arrays = getattr(self, field)
            found = {name: array.shape for name, array in arrays.items()}
            if found != wanted:
                raise DataError(
                    f"mask table: {field} has {found}, not {wanted} as {self.arch.name} and the "
                    f"target call for; run `{_COMMAND}` again"
                )
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise DataError(
                    f"mask table: {field} holds NaN or infinity; mask learning diverged: lower "
                    "shearing.mask_lr"
                )

    def kept_layers(self) -> list[int]:
        """Return the layers that stay."""
        if "layers" not in self.log_alpha:
            return list(range(self.arch.num_layers))
        return best(self.log_alpha["layers"], self.target.num_layers)

    def misses(self) -> list[str]:
        """Return a line for every constraint whose learned size is not its target.

        The learned size is the paper's: the expected number of open units, Σ P(z ≠ 0), rounded;
        that many of the highest stay (of many units, see `shearing.tolerance`).
        Constraints inside a layer that goes bind nothing.
        """
        lines = []
        for name, (units, kept) in open_counts(self.arch, self.target).items():
            for place, probabilities in self._constraints(name):
                count = float(probabilities.sum())
                if abs(count - kept) > tolerance(units):
                    lines.append(f"{name}{place}: {count:.2f} open where {kept} are to be")
        return lines

    def undecided(self) -> dict[str, float]:
        """Return, by kind, the share of units whose E[z] is on the other side of ½ than their fate.

        0 means that keeping every unit with E[z] above ½ gives the target shape as well.
        """
        shares = {}
        for name, (units, kept) in open_counts(self.arch, self.target).items():
            wrong = total = 0
            for _, values in self._constraints(name, self.expected):
                stays = np.isin(np.arange(units), best(values, kept))
                wrong += int((stays != (values > 0.5)).sum())
                total += units
            shares[name] = wrong / total
        return shares

    def _constraints(
        self, name: str, arrays: Mapping[str, Float64] | None = None
    ) -> Iterator[tuple[str, Float64]]:
        """Yield every binding constraint of a kind: where, and what `arrays` say of its units."""
        array = (arrays or self.open_probability)[name]
        if array.ndim == 1:
            yield "", array
            return
        for layer in self.kept_layers():
            for index in np.ndindex(array.shape[1:-1]):
                group = f", group {index[0]}" if index else ""
                yield f" of layer {layer}{group}", array[(layer, *index)]

    def save(self, path: Path) -> None:
        """Write one safetensors file: float64 arrays, everything else in its header."""
        metadata = {
            "arch": dataclasses.asdict(self.arch),
            "target": dataclasses.asdict(self.target),
            "model": self.model,
        }
        arrays = {
            f"{field}.{name}": array
            for field in ("log_alpha", "open_probability", "expected")
            for name, array in getattr(self, field).items()
        }
        save_arrays(path, "mask table", metadata, arrays)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        metadata, arrays = load_arrays(path, "mask table", _COMMAND)
        fields: dict[str, Any] = {"log_alpha": {}, "open_probability": {}, "expected": {}}
        with explain_fields("mask table", path):
            for key, array in arrays.items():
                field, _, name = key.partition(".")
                fields[field][name] = array
            archs = {name: ModelArch(**metadata[name]) for name in ("arch", "target")}
            return cls(**{**metadata, **archs, **fields})


def importance(scores: Path, options: "PruneConfig") -> Importance:
    """Return log α of every unit that was learned, from the mask table in `scores`.

    It orders units as E[z] does, without the ties where that saturates. Raises `ConfigError` for
    another target than the masks were learned for: they say nothing about other shapes.
    """
    table = MaskTable.load(scores / MASKS_NAME)
    wanted = target_arch(options, table.arch)
    if any(getattr(wanted, name) != getattr(table.target, name) for name in PRUNABLE):
        raise ConfigError(
            f"{scores}: masks were learned for {_sizes(table.target)}, not for {_sizes(wanted)}; "
            f"prune to that shape, or learn masks for this one with `{_COMMAND}`"
        )
    return from_table(table)


def from_table(table: MaskTable) -> Importance:
    """Return the importance that a table gives; kinds of which none goes are not ranked."""
    arch, found = table.arch, table.log_alpha
    heads = found.get("heads")
    if heads is None and "groups" in found:  # heads go with their group alone
        heads = np.zeros(mask_shapes(arch)["heads"])
    return Importance(
        arch=arch,
        layers=found.get("layers"),
        hidden=found.get("hidden"),
        ffn=found.get("ffn"),
        heads=None if heads is None else heads.reshape(arch.num_layers, arch.num_attention_heads),
        groups=found.get("groups"),
        model=table.model,
    )


def _sizes(arch: ModelArch) -> str:
    return ", ".join(f"{name} {getattr(arch, name)}" for name in PRUNABLE)
