"""Scores of one layer under sequence parallelism, run where Megatron is imported.

Megatron's own layers need Transformer Engine for it; here a layer of identities is handed what
each rank of such a layer sees: norms half of the positions, the projections half of the channels.
"""

from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor, nn

from nemo_bielik.arch import ModelArch
from nemo_bielik.megatron.model import distributed_session
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.minitron_mcore import ActivationSums
from nemo_bielik.pruning.score import ScoreConfig


class Layer(nn.Module):
    """Norms return what they get, the layer returns `leaving`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer_number = 1
        self.input_layernorm, self.pre_mlp_layernorm = nn.Identity(), nn.Identity()
        self.self_attention, self.mlp = nn.Module(), nn.Module()
        self.self_attention.linear_qkv = self.mlp.linear_fc1 = nn.Identity()
        self.self_attention.linear_proj, self.mlp.linear_fc2 = nn.Identity(), nn.Identity()

    def forward(self, hidden_states: Tensor, seen: dict[str, Tensor]) -> Tensor:
        self.input_layernorm(seen["attention_norm"])
        self.self_attention.linear_proj(seen["heads"])
        self.pre_mlp_layernorm(seen["mlp_norm"])
        self.mlp.linear_fc2(seen["ffn"])
        return seen["leaving"]


def sums_of_shards(arch: ModelArch, whole: dict[str, Tensor]) -> dict[str, Any]:
    """Return the sums over both ranks of what a layer saw, [s, b, ·], named as `Layer` does."""
    config = ScoreConfig(
        model=Path(), data=Path(), output=Path(), parallel=ParallelConfig(tensor=2, sequence=True)
    )
    with distributed_session():
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=2)
        rank = parallel_state.get_tensor_model_parallel_rank()
        own = {
            name: value.chunk(2, dim=2 if name in ("heads", "ffn") else 0)[rank]
            for name, value in whole.items()
        }
        model, layer = nn.Module(), Layer()
        model.decoder = nn.Module()
        model.decoder.layers = nn.ModuleList([layer])
        sums = ActivationSums(arch, config)
        with sums.attached(model):
            layer(own["entering"], own)
        taken = sums.take()
        for total in taken.values():
            dist.all_reduce(total)
        return {name: total.numpy() for name, total in taken.items()}
