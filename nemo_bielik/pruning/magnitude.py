"""Magnitude pruning: the smallest weights become zero; no calibration text is needed.

Method: Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (2015),
the report's equation 1. Magnitudes are compared as float32, which is exact for weights stored in
bf16, fp16 and fp32.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.progress import progress
from nemo_bielik.pruning.sparsity import Sparsity, first_ties, projections, row_parts, zero_rows

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_bielik.pruning.change import Editor

_HALF_BITS = 16
_HALF = 1 << _HALF_BITS


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
        return lambda row, weight: _zero_below(
            weight, threshold.bits, threshold.kept_ties[row.name]
        )
    return lambda row, weight: prune_weight(weight, sparsity)


def prune_weight(weight: "Tensor", sparsity: Sparsity) -> "Tensor":
    """Return `weight` [out, in] with its smallest weights, or those of every group, zeroed.

    Beyond the result it takes about 60 MB, whatever the size.
    """
    if sparsity.m:
        return zero_rows(weight, lambda rows: sparsity.keep_in_rows(rows.abs().float()))
    cut, gone = _cut(lambda what: [weight], sparsity.zeros(weight.numel()))
    return _zero_below(weight, cut, _count_equal(weight, cut) - gone)


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

    Every projection is read three times, one at a time: for the two digits of the threshold and to
    count the weights that equal it. Of these the first stay, in the table's order.
    """
    rows = projections(source.arch)

    def weights(what: str) -> "Iterator[Tensor]":
        for row in progress(rows, desc=f"threshold, {what}", unit="tensor"):
            yield source.read(row.name)

    cut, gone = _cut(weights, sparsity.zeros(sum(row.numel for row in rows)))
    ties = [_count_equal(weight, cut) for weight in weights("ties")]
    allowed, kept = sum(ties) - gone, {}
    for row, count in zip(rows, ties, strict=True):
        kept[row.name] = min(count, allowed)
        allowed -= kept[row.name]
    return Threshold(cut, kept)


def _cut(weights: "Callable[[str], Iterable[Tensor]]", count: int) -> tuple[int, int]:
    """Return the bits of the `count`-th smallest magnitude, and how many equal ones go with it.

    Non-negative floats order as the integers with their bits, so they are found digit by digit: a
    histogram of the upper 16 bits, then one of the lower 16 bits below the upper ones found.
    `weights` is called for either, with what it is for, and yields all matrices that compete.
    """
    upper, left = _digit(weights("upper bits"), count, lambda bits: bits >> _HALF_BITS)
    lower, left = _digit(
        weights("lower bits"),
        left,
        lambda bits: bits[bits >> _HALF_BITS == upper] & (_HALF - 1),
    )
    return upper << _HALF_BITS | lower, left


def _digit(
    weights: "Iterable[Tensor]", count: int, digit: "Callable[[Tensor], Tensor]"
) -> tuple[int, int]:
    """Return the digit of the `count`-th smallest magnitude, and its rank among those with it.

    `digit` takes the bits of some weights to the digits, below 2^16, of those that still matter.
    """
    import torch

    histogram = torch.zeros(_HALF, dtype=torch.int64)
    for weight in weights:
        for rows in row_parts(weight):
            histogram += torch.bincount(digit(_bits(rows).flatten()), minlength=_HALF)
    below = histogram.cumsum(0)
    found = int(torch.searchsorted(below, count))
    return found, count - int(below[found] - histogram[found])


def _bits(weight: "Tensor") -> "Tensor":
    import torch

    return weight.abs().float().view(torch.int32)


def _count_equal(weight: "Tensor", cut: int) -> int:
    return sum(int((_bits(rows) == cut).sum()) for rows in row_parts(weight))


def _zero_below(weight: "Tensor", cut: int, kept_ties: int) -> "Tensor":
    """Zero what lies below `cut`, and of what equals it all but the first `kept_ties`."""
    left = kept_ties

    def keep(rows: "Tensor") -> "Tensor":
        nonlocal left
        bits = _bits(rows)
        ties = first_ties((bits == cut).view(1, -1), left).view(rows.shape)
        left -= int(ties.sum())
        return (bits > cut) | ties

    return zero_rows(weight, keep)
