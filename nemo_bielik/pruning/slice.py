"""Apply a pruning plan to a checkpoint by streaming: read tensor by tensor, held for one shard.

No model object is built: the table in `nemo_bielik.tensors` says along which axes the dimensions
of a tensor run, and the plan says which indices of an axis stay.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import SHARD_BYTES, Checkpoint, CheckpointWriter, copy_tokenizer
from nemo_bielik.errors import DataError
from nemo_bielik.progress import progress
from nemo_bielik.pruning.select import check_target, norm_scale
from nemo_bielik.tensors import Axes, TensorRow, layer_tensor_name, split_layer, tensor_rows

if TYPE_CHECKING:
    import torch


def apply_plan(
    source: Checkpoint, plan: PruningPlan, directory: Path, shard_bytes: int = SHARD_BYTES
) -> Checkpoint:
    """Write what `plan` keeps of `source` into the existing, empty `directory` and reopen it.

    Tensors keep their dtype, and untouched ones their bytes; the tokenizer files are copied.
    Memory holds at most `shard_bytes` and one tensor. The caller hands in a scratch directory
    (`stages.stage_output`) and has seen to it that `planned_bytes` are free.

    Raises `DataError` if the plan is inconsistent or made for another model, and
    `CheckpointError` if a source weight is NaN or infinite.
    """
    check_plan(plan, source)
    writer = CheckpointWriter(directory, _target_config(source, plan), shard_bytes)
    rows = list(tensor_rows(plan.target))
    for row in progress(rows, desc="prune", unit="tensor"):
        writer.add(row.name, _cut(source.read(_source_name(row, plan)), row, plan))
    writer.finish()
    copy_tokenizer(source.directory, directory)
    return Checkpoint.open(directory)


def planned_bytes(source: Checkpoint, plan: PruningPlan) -> int:
    """Return the bytes of all weights that `apply_plan` will write."""
    check_target(plan.source, plan.target)
    total = 0
    for row in tensor_rows(plan.target):
        stored = source.tensors[_source_name(row, plan)]
        total += row.numel * stored.num_bytes // math.prod(stored.shape)
    return total


def check_plan(plan: PruningPlan, source: Checkpoint) -> None:
    """Raise `DataError` unless `plan` is consistent and was made for `source`."""
    if plan.source.replace(name=source.arch.name) != source.arch:
        raise DataError(
            f"pruning plan: was made for another architecture than that of {source.directory}; "
            "select again with the scores of this model"
        )
    if plan.source_model and plan.source_model != source.fingerprint():
        raise DataError(
            f"pruning plan: was made for other weights than those of {source.directory}; "
            "score this model and select again"
        )
    check_target(plan.source, plan.target)
    have, want = plan.source, plan.target
    _check_kept("layers", plan.layers, want.num_layers, have.num_layers)
    _check_kept("hidden", plan.hidden, want.hidden_size, have.hidden_size)
    for name, kept, size, limit in (
        ("ffn", plan.ffn, want.ffn_hidden_size, have.ffn_hidden_size),
        ("groups", plan.groups, want.num_query_groups, have.num_query_groups),
        ("heads", plan.heads, want.num_attention_heads, have.num_attention_heads),
    ):
        if len(kept) != len(plan.layers):
            raise DataError(
                f"pruning plan: {name} covers {len(kept)} layers, not {len(plan.layers)}"
            )
        for layer, indices in zip(plan.layers, kept, strict=True):
            _check_kept(f"{name} of layer {layer}", indices, size, limit)
    _check_grouping(plan)


def _check_kept(what: str, kept: Sequence[int], size: int, limit: int) -> None:
    if len(kept) != size:
        raise DataError(f"pruning plan: {what} keeps {len(kept)}, but the target calls for {size}")
    if list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= limit:
        raise DataError(f"pruning plan: {what} must be ascending indices between 0 and {limit - 1}")


def _check_grouping(plan: PruningPlan) -> None:
    """Heads must lie evenly in the kept groups: a head reads the keys of its position's group."""
    for layer, groups, heads in zip(plan.layers, plan.groups, plan.heads, strict=True):
        wanted = [group for group in groups for _ in range(plan.target.heads_per_group)]
        if [head // plan.source.heads_per_group for head in heads] != wanted:
            raise DataError(
                f"pruning plan: heads of layer {layer} must lie in its kept query groups, "
                f"{plan.target.heads_per_group} in each"
            )


def _source_name(row: TensorRow, plan: PruningPlan) -> str:
    """Return the source's name of a target tensor: layers are renumbered, nothing else."""
    if row.layer is None:
        return row.name
    return layer_tensor_name(plan.layers[row.layer], split_layer(row.name)[1])


def _cut(tensor: "torch.Tensor", row: TensorRow, plan: PruningPlan) -> "torch.Tensor":
    tensor = _keep(tensor, row.axes, _kept_indices(plan, row.layer))
    hidden_cut = plan.target.hidden_size < plan.source.hidden_size
    if plan.rescale_norms and hidden_cut and _is_hidden_norm(row):
        scaled = tensor.double() * norm_scale(plan.source, plan.target)
        tensor = scaled.to(tensor.dtype)
    return tensor


def _keep(tensor: "torch.Tensor", axes: Axes, indices: dict[str, list[int]]) -> "torch.Tensor":
    """Return `tensor` with only `indices[axis]` left of every dimension that is cut."""
    import torch

    for dim, axis in enumerate(axes):
        kept = indices.get(axis)
        if kept is not None and len(kept) < tensor.shape[dim]:
            tensor = tensor.index_select(dim, torch.tensor(kept))
    return tensor


def _kept_indices(plan: PruningPlan, layer: int | None) -> dict[str, list[int]]:
    """Return what stays of every axis in the target's layer `layer` (None: outside the layers)."""
    kept = {"hidden": plan.hidden}
    if layer is not None:
        kept["ffn"] = plan.ffn[layer]
        kept["heads"] = _expand(plan.heads[layer], plan.source.head_dim)
        kept["groups"] = _expand(plan.groups[layer], plan.source.head_dim)
    return kept


def _expand(heads: Sequence[int], head_dim: int) -> list[int]:
    """Return the rows of a projection that belong to `heads`."""
    return [head * head_dim + offset for head in heads for offset in range(head_dim)]


def _is_hidden_norm(row: TensorRow) -> bool:
    return row.axes == ("hidden",) and row.name.endswith("norm.weight")


def _target_config(source: Checkpoint, plan: PruningPlan) -> dict[str, Any]:
    """Return the target's ``config.json``: the source's, but for what pruning changed."""
    config = plan.target.to_hf_config(base=source.config)
    config.pop("_name_or_path", None)
    if "dtype" in source.config and "torch_dtype" not in source.config:  # its newer name
        config.pop("torch_dtype", None)
    if config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in plan.layers]
    return config
