"""A score table computed once more: hooks on plain transformers, sample by sample, in float64."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import torch
from torch import Tensor


def expected_scores(directory: Path, rows: Tensor) -> dict[str, np.ndarray]:
    """Return the sums of equations 5, 8 and 9 over `rows`, [b, s], as a `ScoreTable` names them."""
    model = plain.load(directory)
    config = model.config
    layers, head_dim = config.num_hidden_layers, config.head_dim
    sums = {
        "hidden": np.zeros((2 * layers, config.hidden_size)),
        "ffn": np.zeros((layers, config.intermediate_size)),
        "heads": np.zeros((layers, config.num_attention_heads)),
        "cosine": np.zeros(layers),
    }
    seen: dict[tuple[str, int], np.ndarray] = {}

    def keep(name: str, number: int) -> Callable[..., None]:
        def hook(module: Any, arguments: Any, result: Any = None) -> None:
            value = arguments[0] if result is None else result
            seen[name, number] = value.squeeze(0).detach().numpy()  # [s, ·]

        return hook

    for number, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(keep("residual", number))
        layer.input_layernorm.register_forward_hook(keep("norm", 2 * number))
        layer.post_attention_layernorm.register_forward_hook(keep("norm", 2 * number + 1))
        layer.mlp.down_proj.register_forward_pre_hook(keep("ffn", number))
        layer.self_attn.o_proj.register_forward_pre_hook(keep("heads", number))
    model.model.norm.register_forward_pre_hook(keep("residual", layers))
    for row in rows:
        with torch.no_grad():
            plain.packed_logits(model, row.unsqueeze(0))
        for norm in range(2 * layers):
            sums["hidden"][norm] += np.abs(seen["norm", norm]).mean(axis=0) ** 2
        for number in range(layers):
            sums["ffn"][number] += np.abs(seen["ffn", number]).mean(axis=0) ** 2
            channels = np.abs(seen["heads", number]).mean(axis=0)
            for head in range(config.num_attention_heads):
                own = channels[head * head_dim : (head + 1) * head_dim]
                sums["heads"][number, head] += np.linalg.norm(own) ** 2
            entering, leaving = seen["residual", number], seen["residual", number + 1]
            for before, after in zip(entering, leaving, strict=True):
                length = math.sqrt(before @ before) * math.sqrt(after @ after)
                sums["cosine"][number] += before @ after / length
    return sums
