"""Train linear layers as their quantised selves: rounded in the forward pass, exact behind it.

Every product is of a rounded input and a rounded weight, as a server computes it; gradients pass
the rounding as if it were not there (Bengio et al., "Estimating or Propagating Gradients Through
Stochastic Neurons", 2013). What is trained, saved and exported are the weights in high precision,
which then lose less when they are quantised; with a teacher, quantisation-aware distillation.

A tensor's scale comes from its largest magnitude over all tensor-parallel ranks. Megatron keeps
queries, keys and values in one matrix, gate and up in another: they share a scale, as in the
exported checkpoint. An input's scale is that of its micro-batch; a server's is calibrated.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge.models.gpt_provider import GPTModelProvider, modelopt_transformer_layer_spec
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from nemo_bielik.megatron.model import HAS_TRANSFORMER_ENGINE
from nemo_bielik.quantize import fp8, nvfp4
from nemo_bielik.quantize.modelopt_layers import JOINED, LayerChoice
from nemo_bielik.tensors import layer_tensor_name

#: Megatron's linear layers, in the order of `JOINED`, whose Hugging Face layers they hold.
_LINEARS = (
    "self_attention.linear_qkv",
    "self_attention.linear_proj",
    "mlp.linear_fc1",
    "mlp.linear_fc2",
)
_FORMATS: dict[str, Any] = {"fp8": fp8, "nvfp4": nvfp4}


def quantize_layers(provider: GPTModelProvider, kind: str, layers: LayerChoice) -> None:
    """Have the model of `provider` compute `layers.quantized` in the format `kind`.

    Call it before a teacher is attached, which stays as it is.
    """
    # fused into the backward pass, gradients would go to the weight that is rounded for a moment
    provider.gradient_accumulation_fusion = False
    if HAS_TRANSFORMER_ENGINE:  # its own layers hide the norm's output, which is to be rounded
        provider.transformer_layer_spec = modelopt_transformer_layer_spec
        provider.use_arbitrary_attention_mask = False

    def attach(model: list[MegatronModule]) -> list[MegatronModule]:
        for chunk in model:
            for layer in chunk.decoder.layers:
                for linear, suffixes in zip(_LINEARS, JOINED, strict=True):
                    name = layer_tensor_name(layer.layer_number - 1, suffixes[0])
                    if name in layers.quantized:
                        _Quantized.attach(layer.get_submodule(linear), kind)
        return model

    provider.register_pre_wrap_hook(attach)


class _Quantized:
    """The forward pass of one linear layer on rounded operands."""

    def __init__(self, module: nn.Module, kind: str) -> None:
        self._module, self._kind = module, kind
        self._forward = module.forward

    @classmethod
    def attach(cls, module: nn.Module, kind: str) -> None:
        """Put it in the place of `module`'s own."""
        module.forward = cls(module, kind)

    def __call__(self, inputs: Tensor, *others: Any, **named: Any) -> Any:
        weight = StraightThrough.apply(self._module.weight, self._kind)
        with _replaced(self._module, weight):
            return self._forward(StraightThrough.apply(inputs, self._kind), *others, **named)


class StraightThrough(torch.autograd.Function):
    """Rounding to a format whose gradient is that of doing nothing."""

    @staticmethod
    def forward(context: Any, values: Tensor, kind: str) -> Tensor:
        """Return `values`, any shape, as `kind` leaves them, in their own type."""
        amax = values.detach().abs().amax().float()
        if parallel_state.get_tensor_model_parallel_world_size() > 1:
            group = parallel_state.get_tensor_model_parallel_group()
            dist.all_reduce(amax, dist.ReduceOp.MAX, group=group)
        format_ = _FORMATS[kind]
        rounded: Tensor = format_.simulate(values, format_.scale_of(amax))
        return rounded

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient on."""
        return gradients[0], None


@contextlib.contextmanager
def _replaced(module: nn.Module, weight: Tensor) -> Iterator[None]:
    """Have `module.weight` be a plain tensor meanwhile; the parameter itself is not touched."""
    parameter = module._parameters.pop("weight")
    module.__dict__["weight"] = weight
    try:
        yield
    finally:
        del module.__dict__["weight"]
        module._parameters["weight"] = parameter
