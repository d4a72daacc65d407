"""Input statistics computed once more: hooks on plain transformers, token by token, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import torch
from torch import Tensor

#: Modules of a layer that read each input.
READERS = {
    "qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o_proj": ("self_attn.o_proj",),
    "gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "down_proj": ("mlp.down_proj",),
}


def expected_inputs(directory: Path, rows: Tensor) -> list[dict[str, np.ndarray]]:
    """Return Σ x xᵀ over the tokens of `rows`, [b, s], of every layer and input, [in, in]."""
    model = plain.load(directory)
    seen: dict[tuple[int, str], np.ndarray] = {}

    def keep(layer: int, reader: str) -> Callable[..., None]:
        def hook(module: Any, arguments: Any) -> None:
            seen[layer, reader] = arguments[0].flatten(0, 1).detach().numpy()  # [b · s, in]

        return hook

    for number, block in enumerate(model.model.layers):
        for readers in READERS.values():
            for reader in readers:
                block.get_submodule(reader).register_forward_pre_hook(keep(number, reader))
    with torch.no_grad():
        plain.packed_logits(model, rows)
    sums = []
    for number in range(len(model.model.layers)):
        matrices = {}
        for name, readers in READERS.items():
            first = seen[number, readers[0]]
            assert all(np.array_equal(seen[number, reader], first) for reader in readers)
            matrices[name] = sum(np.outer(token, token) for token in first)
        sums.append(matrices)
    return sums
