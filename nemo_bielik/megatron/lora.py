"""Low-rank adapters: W stays frozen, W + (α / r)·B·A is trained and exported.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021); LLM-Pruner (Ma et al. 2023)
recovers with them. The layers are Megatron-Bridge's. Its export merges them, so that the result is
a plain Hugging Face directory; its checkpoints hold the adapters alone, and a resumed run takes the
frozen weights from the directory that it started from.
"""

import math

import numpy as np
import torch
from megatron.bridge.models.distillation_provider import DistillationProvider
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.bridge.peft.lora import LoRA
from megatron.bridge.peft.lora_layers import LoRALinear
from megatron.bridge.training.config import ConfigContainer
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule

from nemo_bielik.errors import ConfigError
from nemo_bielik.megatron.upstream_fixes import install_peft_layers
from nemo_bielik.training import LoraConfig


def adapt(container: ConfigContainer, settings: LoraConfig, seed: int) -> None:
    """Have the model of `container` trained by adapters on every projection of every layer.

    Bridge learns of them only when they exist: told before, it would ask for a Megatron checkpoint
    of the frozen weights, which come from a Hugging Face directory here.
    Raises `ConfigError` for ModelOpt's pair of models, whose teacher would get adapters too.
    """
    if isinstance(container.model, DistillationProvider):
        raise ConfigError(
            "lora.rank needs engine=bielik: the stock engine shares what is done to the student "
            "with its teacher; leave engine as it is or set lora.rank=0"
        )

    def tell(model: list[MegatronModule]) -> list[MegatronModule]:
        container.peft = lora
        return model

    lora = attach(container.model, settings, seed)
    container.model.register_pre_wrap_hook(tell)


def attach(provider: GPTModelProvider, settings: LoraConfig, seed: int) -> LoRA:
    """Have the model that `provider` will build wrapped by adapters, which are returned."""
    install_peft_layers()
    lora = LoRA(dim=settings.rank, alpha=settings.alpha)

    def wrap(model: list[MegatronModule]) -> list[MegatronModule]:
        adapted: list[MegatronModule] = lora(model, training=True)
        lora.set_params_to_save(adapted)
        for chunk in adapted:
            _initialize(chunk, seed)
        return adapted

    provider.register_pre_wrap_hook(wrap)
    return lora


@torch.no_grad()
def _initialize(chunk: MegatronModule, seed: int) -> None:
    """Draw A anew, as a whole matrix of which a rank keeps its part; B stays zero.

    Bridge draws every rank's part by itself, with the spread of its own size and from its own
    generator: the start, and with it the run, would depend on the layout.
    """
    rank = parallel_state.get_tensor_model_parallel_rank()
    ranks = parallel_state.get_tensor_model_parallel_world_size()
    for layer in chunk.decoder.layers:
        wrapped = [module for module in layer.modules() if isinstance(module, LoRALinear)]
        for number, module in enumerate(wrapped):
            weight = module.adapter.linear_in.weight
            shape = list(weight.shape)
            shape[weight.partition_dim] *= ranks
            generator = np.random.default_rng([seed, layer.layer_number, number])
            whole = generator.standard_normal(shape) * math.sqrt(2 / sum(shape))
            weight.copy_(torch.from_numpy(whole).chunk(ranks, dim=weight.partition_dim)[rank])
