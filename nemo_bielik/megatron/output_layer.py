"""Models that end at their hidden states, so that a loss can apply the output layer in chunks.

Only the forward pass of the output layer is replaced: its weight stays where optimizer, gradient
buffers, checkpoints and export look for it.
"""

from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core.tensor_parallel.mappings import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bielik.distill.fused import OutputLayer


def return_hidden(model: MegatronModule) -> None:
    """Have the last stage of a GPT model return hidden states [b, s, hidden] in place of logits.

    Every tensor-parallel rank gets all tokens. In the backward pass the ranks' parts of their
    gradient are summed here, as the layer itself would do it. Other stages stay as they are.
    """
    if not model.post_process:
        return
    layer = model.output_layer

    def forward(hidden: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        if layer.sequence_parallel:  # backward: reduce-scatter
            return gather_from_sequence_parallel_region(hidden, group=layer.tp_group), None
        hidden = copy_to_tensor_model_parallel_region(hidden, group=layer.tp_group)
        if hidden.requires_grad:  # backward: all-reduce
            # of a gradient that is not contiguous, as the one of [b, s, hidden] is here,
            # Megatron-Core 0.16 sums a copy and returns what it had
            hidden.register_hook(Tensor.contiguous)
        return hidden, None

    layer.forward = forward


def end_at_hidden(provider: GPTModelProvider) -> None:
    """Have the model that `provider` will build end at its hidden states."""

    def end(model: list[MegatronModule]) -> list[MegatronModule]:
        for chunk in model:
            return_hidden(chunk)
        return model

    provider.register_pre_wrap_hook(end)


def output_layer(model: MegatronModule, hidden: Tensor) -> OutputLayer:
    """Return what the last stage's logits are made of, hidden states in the weight's type.

    Megatron widens what a bf16 model returns to float32, which changes no value.
    """
    weight = output_weight(model)
    return OutputLayer(hidden.to(weight.dtype), weight)


def output_weight(model: MegatronModule) -> Tensor:
    """Return the last stage's weight [vocab / tensor ranks, hidden], its embedding if tied."""
    weight: Tensor
    if model.share_embeddings_and_output_weights:
        weight = model.shared_embedding_or_output_weight()
    else:
        weight = model.output_layer.weight
    return weight
