"""SparseGPT: zero weights one column at a time and let the columns still ahead make up for it.

Method: Frantar and Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
One-Shot" (2023), the report's equations 2 and 3. The paper recomputes the inputs of a layer after
the layers before it were pruned; here all Hessians come from the dense model in one pass, so that
one score directory serves any ratio and pattern.

Shapes: W [out, in]; H [in, in] = Σ x xᵀ over the calibration tokens; U [in, in], upper triangular
with UᵀU = (H + λI)⁻¹. Row j of U / U_jj is the update of column j and all after it, with the
columns before j fixed, and U_jj² the diagonal of the inverse of what is left of H.

Memory: factorising holds two matrices the size of H, in float32; the sweep one, U, and a float32
copy of W. For Bielik-11B's down projection (4,096 × 14,336) an H is 0.82 GB, so 1.6 GB and more are
needed beside the weights, on the GPU where there is one.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.input_statistics import Hessians, input_of
from nemo_bielik.pruning.sparsity import Sparsity
from nemo_bielik.tensors import TensorRow

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_bielik.pruning.change import Editor

DAMPING = 0.01
BLOCK = 128


def editor(source: Checkpoint, scores: Path | None, edit: WeightEdit) -> "Editor":
    """Return the function from a projection of `source` to the same, pruned and adjusted.

    Args:
        scores: directory that `bielik score --method sparsegpt` made for `source`.

    Raises:
        ConfigError: a pattern does not divide a projection's inputs.
        DataError: the Hessians are missing, damaged, of another model or not positive definite.
    """
    sparsity = Sparsity.parse(edit.sparsity, edit.pattern)
    sparsity.require_fit(source.arch)
    assert scores is not None, "the settings of `bielik prune` ask for them"
    hessians = Hessians.load(scores)
    hessians.require_model(source)

    @functools.lru_cache(maxsize=1)  # projections with the same input follow each other
    def factor(layer: int, name: str) -> InverseFactor:
        return inverse_factor(
            hessians.read(layer, name).to(_device()), edit.damping, f"layer {layer}, {name}"
        )

    def prune(row: TensorRow, weight: "Tensor") -> "Tensor":
        assert row.layer is not None
        found = factor(row.layer, input_of(row))
        return sweep(weight.to(found.upper.device), found, sparsity).to(weight.device)

    return prune


def prune_weight(
    weight: "Tensor",
    hessian: "Tensor",
    sparsity: Sparsity,
    damping: float = DAMPING,
    block: int = BLOCK,
) -> "Tensor":
    """Return `weight` with zeros where `sparsity` wants them and the others adjusted to the loss.

    Args:
        weight: [out, in], any dtype; the result has the same.
        hessian: [in, in]; the computation runs in its dtype, at least float32.
        damping: λ as a share of the mean of the diagonal.
        block: columns for which weights are chosen together; with a pattern, columns of a group.

    Raises:
        DataError: the Hessian is not positive definite even with its damping.
    """
    return sweep(weight, inverse_factor(hessian, damping), sparsity, block)


@dataclass(frozen=True)
class InverseFactor:
    """What a sweep needs of a Hessian.

    Attributes:
        upper: U, [in, in].
        dead: inputs that were zero throughout, [in]; their weights become zero.
    """

    upper: "Tensor"
    dead: "Tensor"


def inverse_factor(
    hessian: "Tensor", damping: float = DAMPING, where: str = "this matrix"
) -> InverseFactor:
    """Return the upper Cholesky factor of the inverse of H + λI, λ = `damping` · mean diagonal.

    With the order of rows and columns reversed, H = L Lᵀ; reversed again, L⁻¹ is U. The inverse of
    H, whose own factorisation could fail by rounding, is never formed. `hessian` is left as it is;
    if the caller keeps no reference to it, two matrices of its size are held at a time.

    Raises `DataError`, naming `where`, if H + λI is not positive definite.
    """
    import torch

    dead = hessian.diagonal() == 0
    # H is symmetric: transposed, its copy lies column by column as LAPACK wants it, and factor and
    # inverse are written over what they come from.
    lower = hessian.flip(0, 1).to(torch.promote_types(hessian.dtype, torch.float32)).mT
    del hessian
    lower.diagonal().add_(damping * lower.diagonal().mean())
    failed = torch.empty((), dtype=torch.int32, device=lower.device)
    torch.linalg.cholesky_ex(lower, out=(lower, failed))
    if failed or not torch.isfinite(lower.diagonal()).all():
        raise DataError(
            f"{where}: the Hessian of its inputs is not positive definite with damping "
            f"{damping:g}; score again with more calibration samples, or raise the damping, e.g. "
            f"--damping {max(10 * damping, DAMPING):g}"
        )
    inverse = torch.eye(len(dead), dtype=lower.dtype, device=lower.device).mT
    torch.linalg.solve_triangular(lower, inverse, upper=False, out=inverse)
    del lower
    return InverseFactor(inverse.flip(0, 1), dead)


def sweep(
    weight: "Tensor", factor: InverseFactor, sparsity: Sparsity, block: int = BLOCK
) -> "Tensor":
    """Return `weight` [out, in] pruned from the first column to the last.

    Without a pattern exactly `sparsity.zeros(out · columns)` weights of every block go, those of
    the lowest w² / U_jj²; the columns behind a block are brought up to date once it is done.
    """
    upper = factor.upper
    pruned = weight.to(upper.dtype, copy=True)
    pruned[:, factor.dead] = 0
    width = max(block - block % sparsity.m, sparsity.m) if sparsity.m else block
    for start in range(0, weight.size(1), width):
        end = min(start + width, weight.size(1))
        errors = _sweep_block(pruned[:, start:end], upper[start:end, start:end], sparsity)
        pruned[:, end:].addmm_(errors, upper[start:end, end:], alpha=-1)
    return pruned.to(weight.dtype)


def zeros_of(shape: tuple[int, int], sparsity: Sparsity) -> int:
    """Return how many weights of a matrix [out, in] become zero without a pattern.

    The share is rounded in every block of columns.
    """
    outputs, inputs = shape
    widths = (min(BLOCK, inputs - start) for start in range(0, inputs, BLOCK))
    return sum(sparsity.zeros(outputs * width) for width in widths)


def _sweep_block(columns: "Tensor", upper: "Tensor", sparsity: Sparsity) -> "Tensor":
    """Prune `columns` [out, k] in place; return what every column's error adds to those behind."""
    import torch

    errors = torch.empty_like(columns)
    if not sparsity.m:
        keep = sparsity.keep_in_tensor(_saliency(columns, upper))
    for j in range(columns.size(1)):
        if sparsity.m:
            if j % sparsity.m == 0:  # chosen once the columns before the group are fixed
                group = slice(j, j + sparsity.m)
                chosen = sparsity.keep_in_rows(_saliency(columns[:, group], upper[group, group]))
            kept = chosen[:, j % sparsity.m]
        else:
            kept = keep[:, j]
        errors[:, j] = columns[:, j].masked_fill(kept, 0) / upper[j, j]
        columns[:, j:] -= errors[:, j : j + 1] * upper[j, j:]
        columns[:, j].masked_fill_(~kept, 0)  # w - (w / U_jj) · U_jj need not be exactly zero
    return errors


def _saliency(columns: "Tensor", upper: "Tensor") -> "Tensor":
    return (columns / upper.diagonal()).square()


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
