"""Magnitude pruning: the smallest weights become zero; no calibration text is needed.

Method: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015),
the report's equation 1. Magnitudes are compared as float32, which is exact for weights stored in
bf16, fp16 and fp32.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.progress import progress
from nemo_bielik.pruning.sparsity import Sparsity, first_ties, projections
from nemo_bielik.tensors import TensorRow

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_bielik.pruning.change import Editor

_HALF_BITS = 16
_HALF = 1 << _HALF_BITS
_PART = 1 << 22


def editor(source: Checkpoint, scores: Path | None, edit: WeightEdit) -> "Editor":
    """Return the function from a projection of `source` to the same with its zeros.

    With scope ``layer`` the weights of a matrix compete with each other; with ``model`` those of
    all projections do, under one threshold, and a matrix may lose more or less than its share.

    Raises `ConfigError` for a pattern that does not divide a projection's inputs, or that is to
    hold in every group and yet be chosen over the model.
    """
    sparsity = Sparsity.parse(edit.sparsity, edit.pattern)
    sparsity.require_fit(source.arch)
    if edit.scope == "model":
        if sparsity.m:
            raise ConfigError(
                f"pattern {edit.pattern} is chosen within every group of {sparsity.m} weights, so "
                "scope=model means nothing to it; use scope=layer"
            )
        threshold = model_threshold(source, sparsity)
        return lambda row, weight: _zero_below(weight, threshold, row.name)
    return lambda row, weight: prune_weight(weight, sparsity)


def prune_weight(weight: "Tensor", sparsity: Sparsity) -> "Tensor":
    """Return `weight` [out, in] with its smallest weights, or those of every group, zeroed."""
    return weight.masked_fill(~sparsity.keep_in_tensor(weight.abs().float()), 0)


@dataclass(frozen=True)
class Threshold:
    """Where a model's weights are cut.

    Attributes:
        bits: magnitude at the cut, as the integer with the same bits; anything below goes.
        kept_ties: of the weights at the cut, how many of each projection stay, the first ones.
    """

    bits: int
    kept_ties: dict[str, int]


def model_threshold(source: Checkpoint, sparsity: Sparsity) -> Threshold:
    """Find the magnitude below which exactly the wanted number of all projections' weights lie.

    Non-negative floats order as the integers with their bits, so the threshold is found digit by
    digit: a histogram of the upper 16 bits, then one of the lower 16 bits below the upper ones of
    the threshold. A third pass counts the weights that equal it, and ties are kept in the table's
    order. Memory holds one matrix.
    """
    zeros = sparsity.zeros(sum(row.numel for row in projections(source.arch)))
    upper, left = _digit(source, "upper bits", zeros, lambda bits: bits >> _HALF_BITS)
    lower, left = _digit(
        source,
        "lower bits",
        left,
        lambda bits: bits[bits >> _HALF_BITS == upper] & (_HALF - 1),
    )
    cut = upper << _HALF_BITS | lower
    ties = {row.name: int((bits == cut).sum()) for row, bits in _magnitude_bits(source, "ties")}
    allowed, kept = sum(ties.values()) - left, {}
    for name, count in ties.items():
        kept[name] = min(count, allowed)
        allowed -= kept[name]
    return Threshold(cut, kept)


def _digit(
    source: Checkpoint, what: str, count: int, digit: Callable[["Tensor"], "Tensor"]
) -> tuple[int, int]:
    """Return the digit of the `count`-th smallest magnitude, and its rank among those with it.

    `digit` takes the bits of some weights to the digits, below 2^16, of those that still matter.
    """
    import torch

    histogram = torch.zeros(_HALF, dtype=torch.int64)
    for _, bits in _magnitude_bits(source, what):
        for part in torch.split(
            bits, _PART
        ):  # a histogram needs several times the memory of its input
            histogram += torch.bincount(digit(part), minlength=_HALF)
    below = histogram.cumsum(0)
    found = int(torch.searchsorted(below, count))
    return found, count - int(below[found] - histogram[found])


def _magnitude_bits(source: Checkpoint, what: str) -> Iterator[tuple[TensorRow, "Tensor"]]:
    for row in progress(projections(source.arch), desc=f"threshold, {what}", unit="tensor"):
        yield row, _bits(source.read(row.name)).flatten()


def _bits(weight: "Tensor") -> "Tensor":
    import torch

    return weight.float().abs().view(torch.int32)


def _zero_below(weight: "Tensor", threshold: Threshold, name: str) -> "Tensor":
    bits = _bits(weight).view(1, -1)
    ties = first_ties(bits == threshold.bits, threshold.kept_ties[name])
    keep = (bits > threshold.bits) | ties
    return weight.masked_fill(~keep.view(weight.shape), 0)
