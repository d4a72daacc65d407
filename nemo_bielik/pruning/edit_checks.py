"""Whether a model's weights are what a weight edit may have made of its source.

Everything is read in blocks of rows, as raw integers: memory holds two blocks of a few megabytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.progress import progress
from nemo_bielik.pruning import sparsegpt
from nemo_bielik.pruning.sparsity import Sparsity, projections
from nemo_bielik.tensors import TensorRow, tensor_rows


def check_weights(source: Checkpoint, output: Checkpoint, edit: WeightEdit) -> int:
    """Return how many weights of the projections of `output` are zero.

    Every other tensor must hold the bytes of `source`. Of the projections there must be as many
    zeros as the edit asks for in every group of its pattern, or every row (wanda), every tensor
    (magnitude, sparsegpt) or all of them (scope ``model``); more may have been zero before. The
    weights that are not zero must be those of `source`, unless sparsegpt adjusted them.

    Raises `DataError` naming the first tensor that is otherwise.
    """
    if output.arch.replace(name=source.arch.name) != source.arch:
        raise DataError(f"{output.directory}: has another architecture than {source.directory}")
    sparsity = Sparsity.parse(edit.sparsity, edit.pattern)
    edited = {row.name for row in projections(source.arch)}
    zeros = 0
    for row in progress(list(tensor_rows(source.arch)), desc="compare", unit="tensor"):
        if source.tensors[row.name].dtype != output.tensors[row.name].dtype:
            raise DataError(f"{output.directory}: {row.name} has another type than in the source")
        if row.name in edited:
            zeros += _check_edited(source, output, row, edit, sparsity)
        else:
            _check_untouched(source, output, row)
    wanted = sparsity.zeros(sum(row.numel for row in projections(source.arch)))
    if edit.scope == "model" and zeros < wanted:
        raise DataError(
            f"{output.directory}: {zeros:,} weights of the projections are zero, not {wanted:,}"
        )
    return zeros


def _check_untouched(source: Checkpoint, output: Checkpoint, row: TensorRow) -> None:
    pairs = zip(
        source.tensors[row.name].row_blocks(),
        output.tensors[row.name].row_blocks(),
        strict=True,
    )
    if not all(np.array_equal(before, after) for before, after in pairs):
        raise DataError(
            f"{output.directory}: {row.name} differs from the source, but is not edited"
        )


def _check_edited(
    source: Checkpoint, output: Checkpoint, row: TensorRow, edit: WeightEdit, sparsity: Sparsity
) -> int:
    """Return the number of zeros of a projection; raise `DataError` if they or others are wrong."""
    stored = output.tensors[row.name]
    group, wanted = _zeros_in_group(edit, sparsity, row.shape[1])
    zeros = 0
    for before, after in zip(
        source.tensors[row.name].row_blocks(), stored.row_blocks(), strict=True
    ):
        zero = _is_zero(after)
        if int(zero.reshape(-1, group).sum(axis=1).min()) < wanted:
            raise DataError(
                f"{output.directory}: {row.name} has fewer than {wanted} zeros in {group} weights "
                "of a row"
            )
        if edit.method != "sparsegpt" and not ((before == after) | zero).all():
            raise DataError(
                f"{output.directory}: {row.name} holds weights that are neither zero nor the "
                "source's"
            )
        zeros += int(zero.sum())
    if zeros < (wanted := _zeros_in_tensor(edit, sparsity, row.shape)):
        raise DataError(f"{output.directory}: {row.name} has {zeros:,} zeros, not {wanted:,}")
    return zeros


def _zeros_in_group(edit: WeightEdit, sparsity: Sparsity, columns: int) -> tuple[int, int]:
    """Return (consecutive weights of a row, how many of them must be zero)."""
    if sparsity.m:
        return sparsity.m, sparsity.m - sparsity.n
    return columns, sparsity.zeros(columns) if edit.method == "wanda" else 0


def _zeros_in_tensor(edit: WeightEdit, sparsity: Sparsity, shape: tuple[int, ...]) -> int:
    """Return how many weights of a tensor must be zero, beyond what its groups ask for."""
    if sparsity.m or edit.scope == "model" or edit.method == "wanda":
        return 0
    if edit.method == "sparsegpt":
        return sparsegpt.zeros_of((shape[0], shape[1]), sparsity)
    return sparsity.zeros(shape[0] * shape[1])


def _is_zero(raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where raw floats are +0 or −0: all bits below the sign are 0."""
    magnitude = np.iinfo(raw.dtype).max >> 1
    zero: NDArray[np.bool_] = (raw & raw.dtype.type(magnitude)) == 0
    return zero
