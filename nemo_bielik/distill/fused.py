"""The losses of `losses.py` straight from hidden states, without ever holding all logits.

A few tokens at a time: both models' logits (two matrix products), loss and gradient of the logits
in place, then what that gradient gives to the student's hidden states and output weight (two more).
The gradients are exact and nothing is computed twice: the forward pass computes them, the backward
pass scales them. Logits of `chunk_bytes` exist at once, however many tokens there are.

Shapes: hidden states are [..., hidden], output weights [vocab, hidden], or [vocab / ranks, hidden]
with a group whose ranks each hold a slice of the vocabulary.

**Tensor and sequence parallelism.** Every rank of the group passes the same tokens, and gets its
own slice's part of the hidden states' gradient; the parts have to be summed. That is left to the
function that brought the hidden states to all ranks, because only it knows how: without sequence
parallelism `copy_to_tensor_model_parallel_region` (its backward pass is an all-reduce), with it
`gather_from_sequence_parallel_region` (its backward pass is a reduce-scatter over the tokens).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.losses import (
    check_shapes,
    counted_labels,
    counted_tokens,
    sum_and_gradient,
)
from nemo_bielik.distill.top_k import TopK
from nemo_bielik.distill.vocabulary import Group, ranks_of, wide

#: Logits of both models that exist at once. Fewer, and the products wait for the weights, which
#: every chunk reads anew; on a CPU with a vocabulary of 32,128 these are 522 tokens in float32.
_CHUNK_BYTES = {"cpu": 128 * 2**20, "cuda": 512 * 2**20}


@dataclass(frozen=True)
class OutputLayer:
    """The last hidden states [..., hidden] of a model and the weight [vocab / ranks, hidden]."""

    hidden: Tensor
    weight: Tensor

    def logits_shape(self) -> torch.Size:
        """Return the shape of the logits that are not made."""
        return torch.Size((*self.hidden.shape[:-1], len(self.weight)))

    def rows(self, where: Tensor | slice) -> "OutputLayer":
        """Return some tokens of a layer whose hidden states are [tokens, hidden]."""
        return OutputLayer(self.hidden[where], self.weight)

    def flat(self) -> "OutputLayer":
        """Return the same tokens in one dimension, without gradients."""
        hidden = self.hidden.detach()
        return OutputLayer(hidden.reshape(-1, hidden.size(-1)), self.weight.detach())


def fused_loss(
    student: OutputLayer,
    teacher: OutputLayer | TopK,
    mask: Tensor,
    loss: LossConfig | None = None,
    labels: Tensor | None = None,
    group: Group = None,
    chunk_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what `distillation_loss` returns for the logits hidden · weightᵀ of both models.

    The student's hidden states and weight get exact gradients where they ask for them (a frozen
    weight saves its product); the weight's is accumulated in float32. The backward pass can run
    once. Tokens that do not count take no part in any product.

    Args:
        student: hidden states [..., h] and weight [vocab / ranks, h] of one type; products are
            taken in it, losses in float32 (float64 stays).
        teacher: its own, of any width and type, or the `TopK` of a cache, which needs no product.
        mask: [...], not 0 where a token counts.
        loss: as for `distillation_loss`.
        labels: as for `distillation_loss`.
        group: ranks that each hold a slice of the vocabulary; see above for what is left to sum.
        chunk_bytes: logits of both models that exist at once; more is faster up to a point. On a
            GPU, and with a group, the loss itself needs up to about four times as much beside them
            where no kernel of `fused_triton` serves.
    """
    loss, shape = loss or LossConfig(), student.logits_shape()
    shown = (
        teacher if isinstance(teacher, TopK) else torch.empty(teacher.logits_shape(), device="meta")
    )
    check_shapes(shape, shown, mask, labels, loss)
    counted = counted_tokens(mask)
    chosen = counted_labels(labels, counted, loss, shape[-1] * ranks_of(group))
    problem = _Problem(teacher.flat().rows(counted), chosen, loss, group, chunk_bytes)
    total: Tensor = _FusedLoss.apply(  # type: ignore[no-untyped-call]
        student.hidden, student.weight, problem, counted, torch.is_grad_enabled()
    )
    return total, mask.sum()


@dataclass(frozen=True)
class _Problem:
    """What the loss of the counted tokens depends on, beside the student."""

    teacher: OutputLayer | TopK
    labels: Tensor | None
    loss: LossConfig
    group: Group
    chunk_bytes: int | None

    def chunks(self, student: OutputLayer) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield tokens, their summed loss and its gradient [chunk, vocab], a buffer used again."""
        for chunk, logits, target in logits_in_chunks(student, self.teacher, self.chunk_bytes):
            labels = None if self.labels is None else self.labels[chunk]
            yield chunk, sum_and_gradient(logits, target, labels, self.loss, self.group), logits


def logits_in_chunks(
    student: OutputLayer, teacher: OutputLayer | TopK, chunk_bytes: int | None = None
) -> Iterator[tuple[slice, Tensor, Tensor | TopK]]:
    """Yield tokens, the student's logits of them and the teacher's, in buffers used again.

    Chunks are as equal as they go.

    Args:
        student: hidden states [tokens, h]; no gradients are made.
        teacher: of the same tokens; from a `TopK` those of the chunk are taken.
        chunk_bytes: logits of both models that exist at once.
    """
    layers = [student, *([] if isinstance(teacher, TopK) else [teacher])]
    chunks = chunks_of(layers, chunk_bytes)
    buffers = [buffer_for(layer, chunks) for layer in layers]
    for chunk in chunks:
        part = teacher.rows(chunk)
        target = part if isinstance(part, TopK) else project(part, buffers[1])
        yield chunk, project(student.rows(chunk), buffers[0]), target


def chunks_of(layers: Sequence[OutputLayer], chunk_bytes: int | None = None) -> list[slice]:
    """Return tokens in chunks, as equal as they go, whose logits take at most `chunk_bytes`.

    Args:
        layers: of the same tokens, hidden states [tokens, h].
    """
    tokens, vocabulary = layers[0].logits_shape()
    if chunk_bytes is None:
        chunk_bytes = _CHUNK_BYTES.get(layers[0].hidden.device.type, _CHUNK_BYTES["cuda"])
    token_bytes = vocabulary * sum(layer.weight.itemsize for layer in layers)
    chunks = math.ceil(tokens / max(1, chunk_bytes // token_bytes))
    size = math.ceil(tokens / max(1, chunks)) or 1
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def buffer_for(layer: OutputLayer, chunks: Sequence[slice]) -> Tensor:
    """Return memory for the logits of any of the chunks."""
    size = max((chunk.stop - chunk.start for chunk in chunks), default=0)
    return layer.hidden.new_empty(size, len(layer.weight))


def project(layer: OutputLayer, buffer: Tensor) -> Tensor:
    """Return the logits [chunk, vocab / ranks] in a buffer."""
    return torch.mm(layer.hidden, layer.weight.t(), out=buffer[: len(layer.hidden)])


def accumulate(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add gradientᵀ · hidden to a total that may be wider than both."""
    if total.dtype == hidden.dtype:
        torch.addmm(total, gradient.t(), hidden, out=total)
    elif hidden.is_cuda:
        torch.addmm(total, gradient.t(), hidden, total.dtype, out=total)
    else:
        total += gradient.t() @ hidden


class _FusedLoss(torch.autograd.Function):
    """Gradients made in the forward pass, scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        problem: _Problem,
        counted: Tensor | slice,
        with_gradients: bool,
    ) -> Tensor:
        student = OutputLayer(hidden, weight).flat().rows(counted)
        wants_hidden, wants_weight = (with_gradients and x for x in ctx.needs_input_grad[:2])
        slopes = torch.empty_like(student.hidden) if wants_hidden else None
        weight_slopes = torch.zeros_like(weight, dtype=wide(weight)) if wants_weight else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for chunk, chunk_total, gradient in problem.chunks(student):
            total += chunk_total
            if slopes is not None:
                torch.mm(gradient, student.weight, out=slopes[chunk])
            if weight_slopes is not None:
                accumulate(weight_slopes, gradient, student.hidden[chunk])
        ctx.save_for_backward(slopes, weight_slopes)
        ctx.counted, ctx.shape, ctx.dtype = counted, hidden.shape, weight.dtype
        return total.to(wide(hidden))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slopes, weight_slopes = ctx.saved_tensors
        if slopes is not None:
            slopes.mul_(grad)
            if not isinstance(ctx.counted, slice):
                everywhere = slopes.new_zeros(ctx.shape).view(-1, ctx.shape[-1])
                slopes = everywhere.index_copy_(0, ctx.counted, slopes)
            slopes = slopes.view(ctx.shape)
        if weight_slopes is not None:
            weight_slopes = weight_slopes.mul_(grad).to(ctx.dtype)
        return slopes, weight_slopes, None, None, None
