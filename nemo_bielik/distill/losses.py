"""Distillation losses: pure functions of logits, a token mask and an optional process group.

Shapes: logits are [..., vocab] or, with a group, this rank's slice [..., vocab / ranks] of them;
masks are [...], not 0 where a token counts. Every loss returns (sum, count): the sum over counted
tokens and their number; whoever calls divides once, over all ranks and micro-batches. With a group
both are the same on all its ranks, and each gets the gradient of its own slice. What a token that
does not count holds, NaN included, changes nothing, and its gradient is 0.

`fused.py` computes the same losses without ever holding all logits.
"""

import importlib.util
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nemo_bielik.distill.divergences import token_losses
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.top_k import TopK
from nemo_bielik.distill.vocabulary import Group, ranks_of, wide

Teacher = Tensor | TopK
#: Logits of a strip on a CPU: few enough for the cache and for memory that malloc already has (from
#: 32 MiB on it maps new pages every time), enough for threads to meet rarely.
_STRIP_BYTES = 4 * 2**20


def distillation_loss(
    student_logits: Tensor,
    teacher: Teacher,
    mask: Tensor,
    loss: LossConfig | None = None,
    labels: Tensor | None = None,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """Return Σ_tokens (1 − α) · T² · D(p, q) + α · −log q₁(label), and the number of tokens.

    With p = softmax(z_t / T), q = softmax(z_s / T), q₁ = softmax(z_s) and D one of

    ============== ======================================= ==================================
    forward-kl     KL(p ‖ q) = Σ p · (log p − log q)       T · (q − p)
    reverse-kl     KL(q ‖ p) = Σ q · (log q − log p)       T · q · (log q − log p − KL(q ‖ p))
    jensen-shannon β · KL(p ‖ m) + (1 − β) · KL(q ‖ m),    (1 − β) · T · q · (log q − log m
                   m = β · p + (1 − β) · q                 − KL(q ‖ m))
    ============== ======================================= ==================================

    on the right the gradient of T² · D with respect to z_s; that of the label term is q₁ − 1 at the
    label and q₁ elsewhere. The teacher gets none. Forward KL punishes the student where it gives
    too little to what the teacher thinks likely, reverse KL where it gives too much to what the
    teacher thinks unlikely. T² keeps the gradient's size independent of T (Hinton, Vinyals and
    Dean, 2015); as T grows, T² · KL tends to half the variance of z_s − z_t over the vocabulary.
    β as in GKD (Agarwal et al., 2024): the loss divided by β tends to forward KL for β → 0, divided
    by 1 − β to reverse KL for β → 1.

    Args:
        student_logits: [..., vocab] any float type; computed in float32 (float64 stays).
        teacher: logits like `student_logits`, or the `TopK` that a cache holds, with k + 1 classes.
        mask: [...].
        loss: D, T, β and α; forward KL at T = 1 if None.
        labels: [...] token ids of the whole vocabulary; needed if α is above 0.
        group: ranks that each hold a slice of the vocabulary.
    """
    loss = loss or LossConfig()
    check_shapes(student_logits.shape, teacher, mask, labels, loss)
    total: Tensor = _DenseLoss.apply(  # type: ignore[no-untyped-call]
        student_logits, teacher, mask, loss, labels, group
    )
    return total, mask.sum()


def check_shapes(
    student: torch.Size, teacher: Teacher, mask: Tensor, labels: Tensor | None, loss: LossConfig
) -> None:
    """Raise `ValueError` unless everything belongs to the same tokens [...] and vocabulary.

    Args:
        student: the shape of the student's logits, whether they exist or not.
    """
    if isinstance(teacher, TopK):
        if not teacher.ids.shape == teacher.logits.shape or teacher.ids.shape[:-1] != student[:-1]:
            raise ValueError(
                f"teacher's ids {list(teacher.ids.shape)} and logits {list(teacher.logits.shape)} "
                f"do not fit student logits {list(student)}"
            )
    elif student != teacher.shape:
        raise ValueError(
            f"student logits {list(student)} and teacher logits {list(teacher.shape)} "
            "differ in shape"
        )
    if mask.shape != student[:-1]:
        raise ValueError(f"mask {list(mask.shape)} does not fit {list(student)}")
    if loss.label_weight and (labels is None or labels.shape != mask.shape):
        given = "none" if labels is None else list(labels.shape)
        raise ValueError(f"label_weight needs labels {list(mask.shape)}, got {given}")


def sum_and_gradient(
    student: Tensor, teacher: Teacher, labels: Tensor | None, loss: LossConfig, group: Group
) -> Tensor:
    """Return the summed loss of logits [tokens, vocab] and put its gradient in their place.

    On a CPU a few tokens at a time, so that what comes between stays in the cache.
    """
    if isinstance(teacher, Tensor) and _has_kernel(student, loss):
        from nemo_bielik.distill.fused_triton import forward_kl_in_place

        return forward_kl_in_place(student, teacher, loss.temperature, group)
    total = torch.zeros((), dtype=torch.float64, device=student.device)
    for strip in _strips(student, group):
        target = teacher.rows(strip) if isinstance(teacher, TopK) else teacher[strip]
        values, gradient = token_losses(
            student[strip], target, None if labels is None else labels[strip], loss, group
        )
        total += values.sum(dtype=torch.float64)
        student[strip] = gradient
    return total


def counted_tokens(mask: Tensor) -> Tensor | slice:
    """Return which of the flattened tokens count, as an index; all of them as a slice."""
    counts = mask.reshape(-1) != 0
    return slice(None) if bool(counts.all()) else counts.nonzero().squeeze(-1)


def counted_labels(
    labels: Tensor | None, counted: Tensor | slice, loss: LossConfig, vocabulary: int
) -> Tensor | None:
    """Return the labels that the loss uses, if it does; raise `ValueError` if one is no token."""
    if not loss.label_weight:
        return None
    assert labels is not None, "check_shapes has seen them"
    found = labels.reshape(-1)[counted]
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < vocabulary:
        raise ValueError(
            f"labels are {int(found.min())} to {int(found.max())}; the vocabulary has {vocabulary}"
        )
    return found


def _strips(logits: Tensor, group: Group) -> Iterator[slice]:
    """Cut tokens into strips; one alone where launching or talking would cost more than memory."""
    tokens, vocabulary = logits.shape
    rows = max(1, _STRIP_BYTES // (vocabulary * wide(logits).itemsize))
    if logits.device.type != "cpu" or ranks_of(group) > 1:
        rows = max(1, tokens)
    return (slice(start, start + rows) for start in range(0, tokens, rows))


def _has_kernel(student: Tensor, loss: LossConfig) -> bool:
    """Whether `fused_triton` computes this loss here."""
    if not student.is_cuda or student.dtype == torch.float64:
        return False
    forward = loss.divergence == "forward-kl" and not loss.label_weight
    return forward and importlib.util.find_spec("triton") is not None


class _DenseLoss(torch.autograd.Function):
    """The loss of logits with its gradient kept, one buffer of the counted tokens' size."""

    @staticmethod
    def forward(
        ctx: Any,
        student_logits: Tensor,
        teacher: Teacher,
        mask: Tensor,
        loss: LossConfig,
        labels: Tensor | None,
        group: Group,
    ) -> Tensor:
        vocabulary, counted = student_logits.size(-1), counted_tokens(mask)
        gradient = student_logits.reshape(-1, vocabulary)[counted]
        gradient = gradient.to(wide(gradient), copy=isinstance(counted, slice))
        if isinstance(teacher, TopK):
            target: Teacher = teacher.flat().rows(counted)
        else:
            target = teacher.detach().reshape(-1, vocabulary)[counted]
        labels = counted_labels(labels, counted, loss, vocabulary * ranks_of(group))
        total = sum_and_gradient(gradient, target, labels, loss, group)
        ctx.save_for_backward(gradient)
        ctx.counted, ctx.shape, ctx.dtype = counted, student_logits.shape, student_logits.dtype
        return total.to(gradient.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        result = gradient.new_zeros(ctx.shape, dtype=ctx.dtype)
        result.view(-1, ctx.shape[-1])[ctx.counted] = (gradient * grad).to(ctx.dtype)
        return result, None, None, None, None, None
