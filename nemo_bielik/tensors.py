"""The one table of tensors: Hugging Face name → the axes that its dimensions run along.

Counting parameters, checking a checkpoint's shapes and slicing it all read this table, so they
cannot disagree. Axes: ``vocab``; ``hidden`` (hidden channels); ``ffn`` (ffn channels); ``heads``
(query head × head_dim); ``groups`` (query group × head_dim); ``head_dim`` (within one head).
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import CheckpointError

Axes = tuple[str, ...]

MODEL_TENSORS: dict[str, Axes] = {
    "model.embed_tokens.weight": ("vocab", "hidden"),
    "model.norm.weight": ("hidden",),
    "lm_head.weight": ("vocab", "hidden"),
}
LAYER_TENSORS: dict[str, Axes] = {
    "input_layernorm.weight": ("hidden",),
    "self_attn.q_proj.weight": ("heads", "hidden"),
    "self_attn.k_proj.weight": ("groups", "hidden"),
    "self_attn.v_proj.weight": ("groups", "hidden"),
    "self_attn.o_proj.weight": ("hidden", "heads"),
    "post_attention_layernorm.weight": ("hidden",),
    "mlp.gate_proj.weight": ("ffn", "hidden"),
    "mlp.up_proj.weight": ("ffn", "hidden"),
    "mlp.down_proj.weight": ("hidden", "ffn"),
}
#: Present only in families that list them.
OPTIONAL_LAYER_TENSORS: dict[str, Axes] = {
    "self_attn.q_proj.bias": ("heads",),
    "self_attn.k_proj.bias": ("groups",),
    "self_attn.v_proj.bias": ("groups",),
    "self_attn.q_norm.weight": ("head_dim",),
    "self_attn.k_norm.weight": ("head_dim",),
}
_LAYER_NAME = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a model: its name, the layer it belongs to (or None), axes and shape."""

    name: str
    layer: int | None
    axes: Axes
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def layer_tensor_name(layer: int, suffix: str) -> str:
    """Return the Hugging Face name of tensor `suffix` in layer `layer` (counted from 0)."""
    return f"model.layers.{layer}.{suffix}"


def split_layer(name: str) -> tuple[int | None, str]:
    """Split a tensor name into (layer, suffix); tensors outside the layers give (None, name)."""
    match = _LAYER_NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def axis_sizes(arch: ModelArch) -> dict[str, int]:
    """Return the length of every axis of the table for `arch`."""
    return {
        "vocab": arch.vocab_size,
        "hidden": arch.hidden_size,
        "ffn": arch.ffn_hidden_size,
        "heads": arch.num_attention_heads * arch.head_dim,
        "groups": arch.num_query_groups * arch.head_dim,
        "head_dim": arch.head_dim,
    }


def tensor_rows(arch: ModelArch) -> Iterator[TensorRow]:
    """Yield every tensor that a checkpoint of `arch` holds, in layer order."""
    sizes = axis_sizes(arch)
    layer_tensors = LAYER_TENSORS | {
        name: OPTIONAL_LAYER_TENSORS[name] for name in arch.family.optional_tensors
    }

    def row(name: str, layer: int | None, axes: Axes) -> TensorRow:
        return TensorRow(name, layer, axes, tuple(sizes[axis] for axis in axes))

    yield row("model.embed_tokens.weight", None, MODEL_TENSORS["model.embed_tokens.weight"])
    for layer in range(arch.num_layers):
        for suffix, axes in layer_tensors.items():
            yield row(layer_tensor_name(layer, suffix), layer, axes)
    yield row("model.norm.weight", None, MODEL_TENSORS["model.norm.weight"])
    if not arch.tie_word_embeddings:
        yield row("lm_head.weight", None, MODEL_TENSORS["lm_head.weight"])


def check_tensors(
    arch: ModelArch, found: Iterable[tuple[str, tuple[int, ...]]], where: str
) -> None:
    """Raise `CheckpointError` unless `found` (name, shape) is exactly what `arch` calls for."""
    expected = {row.name: row.shape for row in tensor_rows(arch)}
    present = dict(found)
    if arch.tie_word_embeddings:  # some writers store the tied matrix twice
        present.pop("lm_head.weight", None)
    unknown = sorted(present.keys() - expected.keys())
    missing = sorted(expected.keys() - present.keys())
    if unknown:
        raise CheckpointError(
            f"{where}: {len(unknown)} tensor(s) match no row of the {arch.model_type} table: "
            f"{_first(unknown)}; add a row to nemo_bielik/tensors.py or remove them"
        )
    if missing:
        raise CheckpointError(f"{where}: {len(missing)} tensor(s) missing: {_first(missing)}")
    for name, shape in present.items():
        if tuple(shape) != expected[name]:
            raise CheckpointError(
                f"{where}: {name} has shape {list(shape)}, but config.json calls for "
                f"{list(expected[name])}"
            )


def _first(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
