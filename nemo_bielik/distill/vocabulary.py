"""Softmax over a vocabulary that a group of ranks may share, each holding an equal slice of it.

Shapes: logits are [rows, vocab / ranks]; rank r holds the token ids from r · vocab / ranks on.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None


def ranks_of(group: Group) -> int:
    """Return how many slices the vocabulary has."""
    return 1 if group is None else dist.get_world_size(group)


def first_id(logits: Tensor, group: Group) -> int:
    """Return the token id of this rank's first logit."""
    return 0 if group is None else dist.get_rank(group) * logits.size(-1)


def all_sum(tensor: Tensor, group: Group) -> Tensor:
    """Sum over the group, in place."""
    return _all_reduce(tensor, dist.ReduceOp.SUM, group)


def all_maximum(tensor: Tensor, group: Group) -> Tensor:
    """Take the largest over the group, in place."""
    return _all_reduce(tensor, dist.ReduceOp.MAX, group)


def log_softmax(logits: Tensor, group: Group) -> Tensor:
    """Return log softmax over the whole vocabulary, float32 or float64.

    A logit of −inf is a token that cannot be: its log-probability is −inf.
    """
    if ranks_of(group) == 1:
        return torch.log_softmax(logits, -1, dtype=wide(logits))
    maximum = all_maximum(logits.amax(-1, keepdim=True).to(wide(logits)), group)
    shifted = logits - maximum
    return shifted.sub_(all_sum(shifted.exp().sum(-1, keepdim=True), group).log_())


def softmax_and_normaliser(logits: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Return the softmax [rows, vocab / ranks] and log Σ exp(logits) [rows].

    Where every logit is −inf the softmax is 0 and the normaliser −inf.
    """
    maximum = all_maximum(logits.amax(-1, keepdim=True), group)
    limits = torch.finfo(logits.dtype)
    maximum.clamp_(min=limits.min)
    exponentials = (logits - maximum).exp_()
    total = all_sum(exponentials.sum(-1, keepdim=True), group)
    return exponentials.div_(total.clamp(min=limits.tiny)), (maximum + total.log()).squeeze(-1)


def wide(tensor: Tensor) -> torch.dtype:
    """Return the type to compute in: float64 stays, everything else is float32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _all_reduce(tensor: Tensor, operation: Any, group: Group) -> Tensor:
    if ranks_of(group) > 1:
        dist.all_reduce(tensor, operation, group=group)
    return tensor
