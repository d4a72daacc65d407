"""Log-probabilities of given tokens straight from hidden states, without ever holding all logits.

Logits exist for a few tokens at a time: in the forward pass for their normaliser and the label's
logit, and once more in the backward pass, which so takes one matrix product more than a pass that
keeps them. What is kept is two numbers a token. The gradient of a token's log-probability with
respect to its logits is (1 at the label) − softmax.

Shapes and parallelism are those of `distill/fused.py`: with a group every rank passes the same
tokens and its slice of the vocabulary, and gets its slice's part of the hidden states' gradient;
the function that brought the hidden states to all ranks sums the parts.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from nemo_bielik.distill.fused import (
    OutputLayer,
    accumulate,
    buffer_for,
    chunks_of,
    project,
)
from nemo_bielik.distill.losses import counted_tokens
from nemo_bielik.distill.vocabulary import Group, all_maximum, all_sum, first_id, ranks_of, wide


def label_log_probs(
    layer: OutputLayer,
    labels: Tensor,
    mask: Tensor,
    group: Group = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Return log softmax(hidden · weightᵀ)[label] of the tokens that count, [counted], in order.

    In float32 at least; with a group the same on all its ranks. Exact gradients go to hidden states
    and weight. Tokens that do not count take no part in any product.

    Args:
        layer: hidden states [..., h] and weight [vocab / ranks, h] of one type.
        labels: [...] token ids of the whole vocabulary.
        mask: [...], not 0 where a token counts.
        group: ranks that each hold a slice of the vocabulary.
        chunk_bytes: logits that exist at once; the softmax needs as much again, in float32.

    Raises:
        ValueError: labels or mask of another shape than the tokens, or a label that is no token.
    """
    shape = layer.hidden.shape[:-1]
    if not labels.shape == mask.shape == shape:
        raise ValueError(
            f"labels {list(labels.shape)} and mask {list(mask.shape)} do not fit tokens "
            f"{list(shape)}"
        )
    counted = counted_tokens(mask)
    wanted = labels.reshape(-1)[counted]
    vocabulary = len(layer.weight) * ranks_of(group)
    if wanted.numel() and not 0 <= int(wanted.min()) <= int(wanted.max()) < vocabulary:
        raise ValueError(
            f"labels are {int(wanted.min())} to {int(wanted.max())}; the vocabulary has "
            f"{vocabulary}"
        )
    found: Tensor = _LabelLogProbs.apply(  # type: ignore[no-untyped-call]
        layer.hidden, layer.weight, wanted, counted, group, chunk_bytes
    )
    return found


@dataclass(frozen=True)
class Answers:
    """The answers of whole rows, in the order of rows and of documents in them.

    Attributes:
        numbers: [b, s] which answer a token is of; −1 where it does not count.
        weights: [answers] what the mask holds where an answer's tokens count.
    """

    numbers: Tensor
    weights: Tensor

    @classmethod
    def of(cls, mask: Tensor, position_ids: Tensor) -> Self:
        """Return every document that has a token that counts; one begins at position 0."""
        counted = counted_tokens(mask)
        documents = (position_ids.reshape(-1) == 0).cumsum(0)[counted]
        found, answer = torch.unique_consecutive(documents, return_inverse=True)
        numbers = torch.full_like(position_ids.reshape(-1), -1)
        numbers[counted] = answer
        weights = torch.zeros(len(found), dtype=torch.float64, device=mask.device)
        weights[answer] = mask.reshape(-1)[counted].to(weights)
        return cls(numbers.view(position_ids.shape), weights)


def answer_log_probs(
    layer: OutputLayer,
    labels: Tensor,
    mask: Tensor,
    numbers: Tensor,
    count: int,
    group: Group = None,
    context: Group = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Return the summed log-probability of every answer, [answers], float64.

    Where ranks share rows it is the same on all of them, and so must be what they take of it: each
    then has the gradients of its own tokens, and their sum over ranks is the gradient.

    Args:
        layer: hidden states [b, s, h] and weight, as for `label_log_probs`; so are the others.
        numbers: [b, s] of `Answers`, this rank's part of them.
        count: answers of the whole rows.
        context: ranks that share each row's tokens.
    """
    log_probs = label_log_probs(layer, labels, mask, group, chunk_bytes).double()
    answer = numbers.reshape(-1)[counted_tokens(mask)]
    mine = log_probs.new_zeros(count).index_add(0, answer, log_probs)
    found: Tensor = _SumOfParts.apply(mine, context)  # type: ignore[no-untyped-call]
    return found


class _SumOfParts(torch.autograd.Function):
    """What all ranks have is summed; the slope of the sum is that of a rank's own part."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: Group) -> Tensor:
        return all_sum(mine.clone(), group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _LabelLogProbs(torch.autograd.Function):
    """Normalisers are kept, logits are made again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        counted: Tensor | slice,
        group: Group,
        chunk_bytes: int | None,
    ) -> Tensor:
        layer = OutputLayer(hidden, weight).flat().rows(counted)
        found = torch.empty(labels.shape, dtype=wide(hidden), device=hidden.device)
        normalisers = torch.empty_like(found)
        for chunk, logits in _logits(layer, chunk_bytes):
            normalisers[chunk] = _normaliser(logits, group)
            here, column = _in_slice(labels[chunk], logits, group)
            chosen = logits.gather(-1, column).squeeze(-1).to(found.dtype) * here
            found[chunk] = all_sum(chosen, group)
        found -= normalisers
        ctx.save_for_backward(hidden, weight, labels, normalisers)
        ctx.counted, ctx.group, ctx.chunk_bytes = counted, group, chunk_bytes
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, normalisers = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        layer = OutputLayer(hidden, weight).flat().rows(ctx.counted)
        slopes = torch.empty_like(layer.hidden) if wants_hidden else None
        weight_slopes = torch.zeros_like(weight, dtype=wide(weight)) if wants_weight else None
        for chunk, logits in _logits(layer, ctx.chunk_bytes):
            coefficients = grad[chunk].unsqueeze(-1)
            softmax = (logits - normalisers[chunk].unsqueeze(-1)).exp_()
            here, column = _in_slice(labels[chunk], logits, ctx.group)
            gradient = softmax.mul_(-coefficients)
            gradient.scatter_add_(-1, column, coefficients * here.unsqueeze(-1))
            gradient = gradient.to(weight.dtype)
            if slopes is not None:
                torch.mm(gradient, layer.weight, out=slopes[chunk])
            if weight_slopes is not None:
                accumulate(weight_slopes, gradient, layer.hidden[chunk])
        if slopes is not None:
            if not isinstance(ctx.counted, slice):
                everywhere = slopes.new_zeros(hidden.shape).view(-1, hidden.size(-1))
                slopes = everywhere.index_copy_(0, ctx.counted, slopes)
            slopes = slopes.view(hidden.shape)
        if weight_slopes is not None:
            weight_slopes = weight_slopes.to(weight.dtype)
        return slopes, weight_slopes, None, None, None, None


def _logits(layer: OutputLayer, chunk_bytes: int | None) -> Iterator[tuple[slice, Tensor]]:
    """Yield tokens and their logits, in a buffer used again."""
    chunks = chunks_of([layer], chunk_bytes)
    buffer = buffer_for(layer, chunks)
    for chunk in chunks:
        yield chunk, project(layer.rows(chunk), buffer)


def _normaliser(logits: Tensor, group: Group) -> Tensor:
    """Return log Σ exp(logits) over the whole vocabulary, [rows]."""
    if ranks_of(group) == 1:
        return torch.logsumexp(logits.to(wide(logits)), -1)
    maximum = all_maximum(logits.amax(-1, keepdim=True).to(wide(logits)), group)
    total = all_sum((logits - maximum).exp_().sum(-1, keepdim=True), group)
    return (maximum + total.log_()).squeeze(-1)


def _in_slice(labels: Tensor, logits: Tensor, group: Group) -> tuple[Tensor, Tensor]:
    """Return whether this rank holds each label, [rows], and in which column, [rows, 1]."""
    column = labels - first_id(logits, group)
    here = (column >= 0) & (column < logits.size(-1))
    return here, column.where(here, 0).unsqueeze(-1)
