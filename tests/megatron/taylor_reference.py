"""A Taylor table computed once more: autograd on plain transformers, sample by sample, float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import torch
from torch import Tensor

#: Which dimension of a tensor counts which units; heads and groups are blocks of head_dim.
ROWS_OF = {"q_proj": "heads", "k_proj": "groups", "v_proj": "groups", "gate_proj": "ffn"}
ROWS_OF |= {"up_proj": "ffn", "o_proj": "hidden", "down_proj": "hidden"}
COLUMNS_OF = {"o_proj": "heads", "down_proj": "ffn"}


def mean_loss(directory: Path, rows: Tensor, labels: Tensor) -> tuple[Any, Callable[..., Tensor]]:
    """Return a float64 model and a function of samples, all by default, to their summed loss.

    The sum is over the tokens whose label is of the same document, divided by those of all `rows`.
    """
    model = plain.load(directory)
    blocked = torch.zeros(len(rows), 1, rows.size(1), rows.size(1), dtype=torch.float64)
    blocked[~plain.may_see(rows)] = torch.finfo(torch.float64).min
    positions, counted = plain.position_ids(rows), plain.counted_tokens(rows)

    def loss(samples: Any = slice(None)) -> Tensor:
        logits = model(
            rows[samples], attention_mask=blocked[samples], position_ids=positions[samples]
        ).logits
        surprise = plain.token_surprise(logits, labels[samples])
        return (surprise * counted[samples]).sum() / counted.sum()

    return model, loss


def expected_saliences(directory: Path, rows: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return |g·w| and |g·w − ½ Σ_j (g_j·w)²| as a `TaylorTable` lays them out.

    g_j is the gradient of sample j's summed loss over √T, T the number of counted tokens.
    """
    model, loss = mean_loss(directory, rows, labels)
    tokens = plain.counted_tokens(rows).sum()
    names, weights = zip(*model.named_parameters(), strict=True)
    sums, squares = [0.0] * len(names), [0.0] * len(names)
    for sample in range(len(rows)):
        gradients = torch.autograd.grad(loss(slice(sample, sample + 1)), weights)
        for number, (gradient, weight) in enumerate(zip(gradients, weights, strict=True)):
            sums[number] += gradient * weight
            squares[number] += (gradient * tokens / tokens.sqrt() * weight) ** 2
    first = {n: total.abs().detach().numpy() for n, total in zip(names, sums, strict=True)}
    fisher = {
        name: (total - square / 2).abs().detach().numpy()
        for name, total, square in zip(names, sums, squares, strict=True)
    }
    config = model.config
    return {"first": by_axis(first, config), "fisher": by_axis(fisher, config)}


def by_axis(saliences: dict[str, np.ndarray], config: Any) -> dict[str, np.ndarray]:
    found: dict[str, list[Any]] = {}
    for name, values in saliences.items():
        parts = name.split(".")
        layered = parts[1] == "layers"
        suffix = ".".join(parts[3:]) if layered else name
        kind = parts[-2]
        sums = {}
        if values.ndim == 1:
            sums["hidden"] = values
        elif not layered:
            sums["hidden"] = values.sum(axis=0)
        else:
            sums[ROWS_OF[kind]] = values.sum(axis=1)
            sums[COLUMNS_OF.get(kind, "hidden")] = values.sum(axis=0)
        if layered:
            sums["layer"] = values.sum()
        for axis, units in sums.items():
            if axis in ("heads", "groups"):
                starts = range(0, len(units), config.head_dim)
                units = np.array([units[s : s + config.head_dim].sum() for s in starts])
            found.setdefault(f"{suffix}/{axis}", []).append(units)
    return {entry: np.stack(rows) for entry, rows in found.items()}
