"""Minitron's statistics as NVIDIA ModelOpt collects them (`mcore_minitron`), as a `ScoreTable`.

Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (2024), in
ModelOpt 0.43's own hooks, on the same batches as `minitron_mcore`. What they hold is the same:

- `_activations` of the model, by norm: Σ_b (mean_s |a|)², both norms of every layer, the final
  norm left out; of attention and MLP the same, of the input of their output projection. Heads sum
  the squares of their channels; ModelOpt takes the root of that.
- `_scores` of a layer: Σ over micro-batches of 1 − mean cos(x_l, x_{l+1}), which is Block Influence
  times the number of micro-batches.

ModelOpt adds up in float32 and only within one process; here its sums are moved to float64 after
every part of a run, and added over data-parallel ranks. Only scores are taken: our own slicer cuts,
so ModelOpt's habit of ignoring a size that its divisors do not divide cannot show. It ranks no
query groups, but the importance of their heads, of which `select` makes one.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from modelopt.torch.prune.plugins.mcore_minitron import (
    ImportanceEstimatorRegistry,
    convert_mcore_minitron,
    get_mcore_minitron_config,
)
from torch import Tensor

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.model import HAS_TRANSFORMER_ENGINE
from nemo_bielik.megatron.upstream_fixes import install_modelopt_norm
from nemo_bielik.pruning.minitron_mcore import collect_sums, empty_sums
from nemo_bielik.pruning.score import ScoreConfig


def collect(config: ScoreConfig, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Score by ModelOpt's hooks in one forward pass and publish the table.

    Raises `ConfigError` where ModelOpt 0.43 cannot: with tensor parallelism, or on layers in which
    Transformer Engine fuses the norms.
    """
    if config.parallel.tensor > 1:
        raise ConfigError(
            f"parallel.tensor is {config.parallel.tensor}; ModelOpt collects scores with tensor=1 "
            "only; use pipeline or data, or engine=bielik"
        )
    if HAS_TRANSFORMER_ENGINE:
        raise ConfigError(
            "engine=modelopt cannot read norms that Transformer Engine fuses into the linear "
            "layers after them; use engine=bielik, which can"
        )
    install_modelopt_norm()
    collect_sums(config, checkpoint, manifest, ModelOptSums)


class ModelOptSums:
    """The sums of a `ScoreTable`, filled by ModelOpt's hooks on this rank's layers."""

    def __init__(self, arch: ModelArch, config: ScoreConfig) -> None:
        self.arch = arch
        self.tokens_a_batch = config.micro_batch_size * config.sequence_length
        self.batches = 0
        self.model: Any = None

    @contextlib.contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Let every forward pass of `model` add to ModelOpt's sums; makes its modules dynamic."""
        # divisors only say which sizes ModelOpt could cut to
        divisors = ("hidden_size_divisor", "ffn_hidden_size_divisor", "num_layers_divisor")
        convert_mcore_minitron(model, get_mcore_minitron_config(**dict.fromkeys(divisors, 1)))
        registry = ImportanceEstimatorRegistry(model)
        registry.register_hook(model, self._count, hook_type="forward_pre")
        self.model = model
        try:
            yield
        finally:
            registry.cleanup()

    def take(self) -> dict[str, Tensor]:
        """Return this rank's sums and have ModelOpt start again from nothing."""
        sums = empty_sums(self.arch)
        norms = self.model._activations
        for layer in self.model.decoder.layers if self.batches else ():
            index, attention, mlp = layer.layer_number - 1, layer.self_attention, layer.mlp
            sums["hidden"][2 * index] = norms[id(layer.input_layernorm)]
            sums["hidden"][2 * index + 1] = norms[id(layer.pre_mlp_layernorm)]
            sums["ffn"][index] = mlp._activations
            channels = attention._activations.double().view(-1, self.arch.head_dim)
            sums["heads"][index] = channels.sum(dim=1)
            sums["cosine"][index] = (self.batches - layer._scores) * self.tokens_a_batch
            attention._activations, mlp._activations, layer._scores = None, None, 0.0
        norms.clear()
        self.batches = 0
        return sums

    def _count(self, module: torch.nn.Module, args: Any) -> None:
        self.batches += 1
