"""Tensors of a Hugging Face directory ↔ parameters of a Megatron-Core GPT model, as one table.

Transformer Engine's layers fuse each norm into the linear layer behind it, so the same weight has
two names. Which of them a model has is read off the model; every name on either side must belong
to a row, or nothing is converted. Shape legend: ``n`` query heads, ``g`` query groups, ``d``
head_dim, ``h`` hidden channels, ``f`` ffn channels.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import CheckpointError
from nemo_bielik.tensors import layer_tensor_name


@dataclass(frozen=True)
class Row:
    """Hugging Face tensors that make up one Megatron-Core parameter."""

    sources: tuple[str, ...]
    target: str


MODEL_ROWS = (
    Row(("model.embed_tokens.weight",), "embedding.word_embeddings.weight"),
    Row(("model.norm.weight",), "decoder.final_layernorm.weight"),
)
OUTPUT_ROW = Row(("lm_head.weight",), "output_layer.weight")
_QUERY_KEY_VALUE = "self_attention.linear_qkv.weight"
_GATE_UP = "mlp.linear_fc1.weight"
LAYER_ROWS = (
    Row(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        _QUERY_KEY_VALUE,
    ),
    Row(("self_attn.o_proj.weight",), "self_attention.linear_proj.weight"),
    Row(("mlp.gate_proj.weight", "mlp.up_proj.weight"), _GATE_UP),
    Row(("mlp.down_proj.weight",), "mlp.linear_fc2.weight"),
)
#: With Transformer Engine: the norm is a part of the linear layer that it feeds.
FUSED_NORM_ROWS = (
    Row(("input_layernorm.weight",), "self_attention.linear_qkv.layer_norm_weight"),
    Row(("post_attention_layernorm.weight",), "mlp.linear_fc1.layer_norm_weight"),
)
#: Without it, and in ModelOpt's layers: the norm is a module of its own.
SEPARATE_NORM_ROWS = (
    Row(("input_layernorm.weight",), "input_layernorm.weight"),
    Row(("post_attention_layernorm.weight",), "pre_mlp_layernorm.weight"),
)


def rows(arch: ModelArch, parameters: Collection[str]) -> list[Row]:
    """Return the table for a model of `arch` whose parameters have these names."""
    fused = any(name.endswith(FUSED_NORM_ROWS[0].target) for name in parameters)
    in_layer = LAYER_ROWS + (FUSED_NORM_ROWS if fused else SEPARATE_NORM_ROWS)
    return [
        *MODEL_ROWS,
        *([] if arch.tie_word_embeddings else [OUTPUT_ROW]),
        *(
            Row(
                tuple(layer_tensor_name(layer, source) for source in row.sources),
                f"decoder.layers.{layer}.{row.target}",
            )
            for layer in range(arch.num_layers)
            for row in in_layer
        ),
    ]


def to_megatron(
    arch: ModelArch,
    names: Collection[str],
    read: Callable[[str], Tensor],
    parameters: Collection[str],
) -> dict[str, Tensor]:
    """Return the parameters of a Megatron-Core model.

    Args:
        arch: sizes of the model.
        names: the Hugging Face tensors there are; `read` returns one of them.
        parameters: the names that the model to fill has (`parameter_names`).

    Raises:
        CheckpointError: naming the tensors or parameters that no row matches, or that are missing.
    """
    table = rows(arch, parameters)
    _require_match(table, names, parameters, arch.name)
    return {row.target: _join(arch, row, [read(name) for name in row.sources]) for row in table}


def to_hugging_face(
    arch: ModelArch, parameters: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the Hugging Face tensors of a Megatron-Core model; errors as in `to_megatron`."""
    table = rows(arch, parameters.keys())
    sources = [name for row in table for name in row.sources]
    _require_match(table, sources, parameters.keys(), arch.name)
    for row in table:
        yield from zip(row.sources, _split(arch, row, parameters[row.target]), strict=True)


def parameter_names(model: torch.nn.Module) -> list[str]:
    """Return the names of a model's weights, without Transformer Engine's extra states."""
    return [name for name in model.state_dict() if not name.endswith("_extra_state")]


def _join(arch: ModelArch, row: Row, parts: list[Tensor]) -> Tensor:
    if row.target.endswith(_QUERY_KEY_VALUE):
        # [n·d, h], [g·d, h], [g·d, h] → [g·(n/g + 2)·d, h]: every group's queries, key and value
        groups = [part.reshape(arch.num_query_groups, -1, part.size(-1)) for part in parts]
        return torch.cat(groups, dim=1).flatten(0, 1)
    return torch.cat(parts) if len(parts) > 1 else parts[0]  # gate above up: [2·f, h]


def _split(arch: ModelArch, row: Row, weight: Tensor) -> list[Tensor]:
    if row.target.endswith(_QUERY_KEY_VALUE):
        groups = weight.reshape(arch.num_query_groups, -1, weight.size(-1))
        sizes = [arch.heads_per_group * arch.head_dim, arch.head_dim, arch.head_dim]
        return [part.flatten(0, 1) for part in groups.split(sizes, dim=1)]
    return list(weight.chunk(len(row.sources)))


def _require_match(
    table: list[Row], names: Collection[str], parameters: Collection[str], where: str
) -> None:
    wanted_names = {name for row in table for name in row.sources}
    wanted_parameters = {row.target for row in table}
    complaints = [
        f"{complaint}: {', '.join(sorted(found))}"
        for complaint, found in (
            ("tensors that no row of the conversion matches", set(names) - wanted_names),
            ("missing tensors", wanted_names - set(names)),
            (
                "parameters that no row of the conversion matches",
                set(parameters) - wanted_parameters,
            ),
            ("missing parameters", wanted_parameters - set(parameters)),
        )
        if found
    ]
    if complaints:
        raise CheckpointError(
            f"{where}: {'; '.join(complaints)}; nothing was converted: add rows to "
            "nemo_bielik/nemo2/conversion.py or take them away"
        )
