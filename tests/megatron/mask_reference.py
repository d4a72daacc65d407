"""Masks once more: hooks on plain transformers in float64, slopes by autograd."""

from pathlib import Path
from typing import Any

import plain_reference as plain
from torch import Tensor


def masked_loss(
    directory: Path, rows: Tensor, labels: Tensor, masks: dict[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """Return the mean loss of `rows`, [b, s], and its slope by every mask."""
    model = plain.load(directory).requires_grad_(False)
    z = {name: mask.clone().requires_grad_() for name, mask in masks.items()}
    head_dim = model.config.head_dim
    model.model.embed_tokens.register_forward_hook(lambda module, args, out: out * z["hidden"])
    for number, layer in enumerate(model.model.layers):
        heads = (z["heads"][number] * z["groups"][number][:, None]).flatten()
        inputs = {
            layer.self_attn.o_proj: heads.repeat_interleave(head_dim),
            layer.mlp.down_proj: z["ffn"][number],
        }
        written = z["hidden"] * z["layers"][number]
        for module, mask in inputs.items():
            module.register_forward_pre_hook(lambda _, args, mask=mask: (args[0] * mask,))
            module.register_forward_hook(lambda _, args, out, mask=written: out * mask)
    surprise = plain.token_surprise(plain.packed_logits(model, rows), labels)
    loss: Any = plain.masked_mean(surprise, rows)
    loss.backward()
    return loss.item(), {name: mask.grad for name, mask in z.items()}
