"""Weights that pruning made zero stay zero while the others are trained.

A gradient that is zero from the first step on leaves Adam's moments at zero, and weight decay takes
a share of nothing, so the weight never moves; patterns such as 2:4 then hold exactly afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.training.callbacks import Callback, CallbackContext
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from nemo_bielik.errors import DataError


def keep_zeros(provider: GPTModelProvider) -> "KeptZeros":
    """Have the model of `provider` keep the zeros that it is loaded with.

    The masks come from the model that training starts from, also where a checkpoint is resumed.
    Call it before a teacher is attached, and give the result to `pretrain` ahead of callbacks that
    export.
    """
    # fused into the backward pass, gradients would go to Megatron's buffers past every hook
    provider.gradient_accumulation_fusion = False
    kept = KeptZeros()
    provider.register_pre_wrap_hook(kept.attach)
    return kept


class KeptZeros(Callback):
    """The zeros of a model's layers: kept in every backward pass, asserted before every export.

    Only matrices in the layers matter; a zero in an embedding or a norm is free to move.
    """

    def __init__(self) -> None:
        self.weights: list[_SparseWeight] = []

    def attach(self, model: list[MegatronModule]) -> list[MegatronModule]:
        """Note where the weights are zero, and zero their gradients before any is accumulated.

        Takes a byte for every weight of a matrix that holds zeros.
        """
        for name, parameter in _layer_matrices(model):
            zeros = parameter.detach() == 0
            if zeros.any():
                weight = _SparseWeight(name, parameter, zeros)
                parameter.register_hook(weight.mask_gradient)
                self.weights.append(weight)
        return model

    def on_eval_end(self, context: CallbackContext) -> None:
        """Check before the best weights are exported."""
        self.check()

    def on_train_end(self, context: CallbackContext) -> None:
        """Check before the last weights are exported."""
        self.check()

    def check(self) -> None:
        """Raise `DataError`, on every rank, if a weight that was zero is not any more."""
        moved = {weight.name: weight.moved() for weight in self.weights}
        total = torch.tensor([sum(moved.values())]).cuda()
        dist.all_reduce(total)
        if total.item():
            here = next((f", here in {name}" for name, count in moved.items() if count), "")
            raise DataError(
                f"keep_zeros: {total.item():,} weights that were zero at the start are not any "
                f"more{here}; nothing is exported; remove the unfinished work beside the output "
                "and train again"
            )


@dataclass
class _SparseWeight:
    name: str
    parameter: nn.Parameter
    zeros: Tensor

    def mask_gradient(self, gradient: Tensor) -> Tensor:
        return gradient.masked_fill(self._mask(), 0)

    def moved(self) -> int:
        return int(self.parameter.detach()[self._mask()].count_nonzero())

    def _mask(self) -> Tensor:
        self.zeros = self.zeros.to(self.parameter.device)  # the model may move after it is loaded
        return self.zeros


def _layer_matrices(model: list[MegatronModule]) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trained projections; a teacher beside them is frozen."""
    for chunk in model:
        for name, parameter in chunk.named_parameters():
            if ".layers." in name and parameter.ndim == 2 and parameter.requires_grad:
                yield name, parameter
