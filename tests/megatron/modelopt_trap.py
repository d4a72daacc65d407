"""ModelOpt's own pruning, run where Megatron is imported, to see what it says and what it did."""

from pathlib import Path
from typing import Any

import torch
from modelopt.torch.prune import prune

from nemo_bielik.megatron.batches import Batch
from nemo_bielik.megatron.model import inference_model
from nemo_bielik.megatron.upstream_fixes import install_modelopt_norm
from nemo_bielik.parallel import ParallelConfig


def pruned_shapes(directory: Path, target: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Prune a model to `target` by ModelOpt's defaults: (sizes in its config, sizes it has)."""
    tokens = torch.arange(16).view(1, -1)
    batch = Batch(tokens, tokens, torch.ones_like(tokens), tokens)
    install_modelopt_norm()
    with inference_model(directory, ParallelConfig(), 16) as (_, chunks):

        def forward_loop(model: Any) -> None:
            model(**batch.model_inputs())

        model, _ = prune(
            chunks[0],
            mode="mcore_minitron",
            constraints={"export_config": dict(target)},
            dummy_input=None,
            config={"forward_loop": forward_loop},
        )
        hidden, ffn = model.decoder.layers[0].mlp.linear_fc2.weight.shape
        found = {"hidden_size": hidden, "ffn_hidden_size": ffn}
        return {name: getattr(model.config, name) for name in target}, found
