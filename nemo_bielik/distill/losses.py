"""Distillation losses: pure functions of logits, a token mask and an optional process group.

Shapes: logits are [..., vocab] or, with a group, this rank's slice [..., vocab / ranks] of them;
masks are [...], 1 where a token counts. Every loss returns (sum, count): the sum over counted
tokens and their number; whoever calls divides once, over all ranks and micro-batches.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Group = dist.ProcessGroup | None


def forward_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    temperature: float = 1.0,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """Return T² · Σ_tokens KL(softmax(z_t/T) ‖ softmax(z_s/T)) and the number of tokens.

    The report's equation 11: the teacher's distribution stands first, so the student is punished
    where it gives too little to what the teacher thinks likely. T² keeps the gradient's size
    independent of T (Hinton, Vinyals and Dean, 2015). The gradient with respect to the student's
    logits is T · mask · (p_s − p_t); the teacher gets none.

    Args:
        student_logits: [..., vocab] any float type; computed in float32 (float64 stays).
        teacher_logits: like `student_logits`.
        mask: [...], 0 or 1.
        temperature: T above 0; 1 compares the distributions as they are.
        group: ranks that each hold a slice of the vocabulary.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student logits {list(student_logits.shape)} and teacher logits "
            f"{list(teacher_logits.shape)} differ in shape"
        )
    if mask.shape != student_logits.shape[:-1]:
        raise ValueError(f"mask {list(mask.shape)} does not fit {list(student_logits.shape)}")
    total: Tensor = _ForwardKL.apply(  # type: ignore[no-untyped-call]
        student_logits, teacher_logits.detach(), mask, temperature, group
    )
    return total, mask.sum()


class _ForwardKL(torch.autograd.Function):
    """Forward KL with its gradient kept as p_s − p_t, one buffer the size of the logits."""

    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher_logits: Tensor,
        mask: Tensor,
        temperature: float,
        group: Group,
    ) -> Tensor:
        student = _log_softmax(student_logits, temperature, group)
        teacher = _log_softmax(teacher_logits, temperature, group)
        probability = teacher.exp()
        divergence = (probability * (teacher - student)).sum(-1)
        _all_reduce(divergence, dist.ReduceOp.SUM, group)
        ctx.save_for_backward(student.exp_().sub_(probability), mask)
        ctx.temperature = temperature
        ctx.dtype = student_logits.dtype
        return temperature**2 * (divergence * mask).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        difference, mask = ctx.saved_tensors
        weight = ctx.temperature * grad * mask
        return (difference * weight.unsqueeze(-1)).to(ctx.dtype), None, None, None, None


def _log_softmax(logits: Tensor, temperature: float, group: Group) -> Tensor:
    """Return log softmax(logits / T) over a vocabulary that `group` may share."""
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature
    maximum = scaled.amax(-1, keepdim=True)
    _all_reduce(maximum, dist.ReduceOp.MAX, group)
    shifted = scaled.sub_(maximum)
    normaliser = shifted.exp().sum(-1, keepdim=True)
    _all_reduce(normaliser, dist.ReduceOp.SUM, group)
    return shifted.sub_(normaliser.log_())


def _all_reduce(tensor: Tensor, operation: Any, group: Group) -> None:
    if group is not None and dist.get_world_size(group) > 1:
        dist.all_reduce(tensor, operation, group=group)
