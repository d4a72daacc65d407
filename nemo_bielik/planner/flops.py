"""Floating-point operations per token; a multiply and an add are two.

Forward, per token of a sequence of s tokens::

    linear     2 × (elements of every linear layer, and of the output projection, tied or not)
    attention  4 × layers × heads × head_dim × keys,  keys = (s + 1) / 2 under the causal mask

2 for the scores QKᵀ and 2 for their product with V; token t sees t keys, (s + 1) / 2 on average.
The embedding lookup, norms, rotary embeddings and softmax are left out (below one percent).
Training costs three forwards: the backward pass makes two products for each of the forward's.
Recomputed activations and, in distillation, the teacher's forward come on top.
"""

from functools import lru_cache

from nemo_bielik.arch import ModelArch
from nemo_bielik.planner.parameters import is_linear, rows


@lru_cache(maxsize=64)
def linear_flops_per_token(arch: ModelArch) -> int:
    """Return the forward FLOPs of the linear layers and the output projection for one token."""
    layers = sum(row.numel for row in rows(arch) if is_linear(row))
    return 2 * (layers + arch.vocab_size * arch.hidden_size)


def attention_flops_per_token(arch: ModelArch, context: int, causal: bool = True) -> float:
    """Return the forward FLOPs of attention for one token of a sequence of `context` tokens.

    `causal=False` counts every key for every token: what an implementation that computes the whole
    square and masks it does.
    """
    keys = (context + 1) / 2 if causal else context
    return 4 * arch.num_layers * arch.num_attention_heads * arch.head_dim * keys


def forward_flops_per_token(arch: ModelArch, context: int, causal: bool = True) -> float:
    """Return the forward FLOPs of one token, averaged over a sequence of `context` tokens."""
    return linear_flops_per_token(arch) + attention_flops_per_token(arch, context, causal)


def training_flops_per_token(arch: ModelArch, context: int, causal: bool = True) -> float:
    """Return the FLOPs of forward and backward: three times the forward's."""
    return 3 * forward_flops_per_token(arch, context, causal)
