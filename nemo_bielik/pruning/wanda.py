"""Wanda: weights times the size of what they multiply, compared within each output.

Method: Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2023), the
report's equation 4. Weights that stay keep their values.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.pruning.input_statistics import INPUT_NORMS_NAME, InputNorms
from nemo_bielik.pruning.sparsity import Sparsity, zero_rows
from nemo_bielik.tensors import TensorRow

if TYPE_CHECKING:
    from torch import Tensor

    from nemo_bielik.pruning.change import Editor


def editor(source: Checkpoint, scores: Path | None, edit: WeightEdit) -> "Editor":
    """Return the function from a projection of `source` to the same with its zeros.

    Args:
        scores: directory that `bielik score --method wanda` made for `source`.

    Raises:
        ConfigError: a pattern does not divide a projection's inputs.
        DataError: the scores are missing, damaged or of another model.
    """
    import torch

    sparsity = Sparsity.parse(edit.sparsity, edit.pattern)
    sparsity.require_fit(source.arch)
    assert scores is not None, "the settings of `bielik prune` ask for them"
    norms = InputNorms.load(scores / INPUT_NORMS_NAME)
    norms.require_model(source)

    def zero(row: TensorRow, weight: "Tensor") -> "Tensor":
        return prune_weight(weight, torch.from_numpy(norms.of(row)), sparsity)

    return zero


def score_weights(weight: "Tensor", input_norms: "Tensor") -> "Tensor":
    """Return |W_ij| · ‖X_j‖₂ as float32, [out, in].

    Args:
        weight: [out, in], any dtype.
        input_norms: [in], L2 norm of every input over the calibration tokens.
    """
    return weight.abs().float() * input_norms.float()


def prune_weight(weight: "Tensor", input_norms: "Tensor", sparsity: Sparsity) -> "Tensor":
    """Return `weight` with the lowest scores of every output row, or of its groups, zeroed.

    Scores are made and ranked a few rows at a time: beyond the result it takes about 60 MB.
    """
    return zero_rows(weight, lambda rows: sparsity.keep_in_rows(score_weights(rows, input_norms)))
