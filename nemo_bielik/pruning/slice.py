"""Apply a pruning plan or a weight edit to a checkpoint by streaming it, without a model object.

The table in `nemo_bielik.tensors` says along which axes the dimensions of a tensor run, and the
plan says which indices of an axis stay. What is written where is known before anything is read
(`nemo_bielik.pruning.stream`); a plan's tensors pass in blocks of rows, many shards at a time, an
edit's one after the other, in layer order.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.artifacts import PruningPlan, WeightEdit
from nemo_bielik.checkpoint import SHARD_BYTES, Checkpoint, config_text, tokenizer_files
from nemo_bielik.errors import CheckpointError
from nemo_bielik.pruning.plan_checks import check_edit, check_plan
from nemo_bielik.pruning.select import norm_scale
from nemo_bielik.pruning.sparsity import projections
from nemo_bielik.pruning.stream import Blocks, Layout, lay_out, write_model
from nemo_bielik.tensor_files import NewTensor, Raw, StoredTensor
from nemo_bielik.tensors import TensorRow, layer_tensor_name, split_layer, tensor_rows

if TYPE_CHECKING:
    import torch

    from nemo_bielik.pruning.change import Editor

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Written:
    """What `apply_plan` or `apply_edit` made.

    Attributes:
        sha256: file name → SHA-256 of every file, taken while it was written.
        zeros: name of an edited tensor → how many of its weights are zero; empty for a plan.
    """

    checkpoint: Checkpoint
    sha256: Mapping[str, str]
    zeros: Mapping[str, int] = field(default_factory=dict)


def apply_plan(
    source: Checkpoint, plan: PruningPlan, directory: Path, shard_bytes: int = SHARD_BYTES
) -> Written:
    """Write what `plan` keeps of `source` into the existing, empty `directory`.

    Tensors keep their dtype, and untouched ones their bytes; the tokenizer files are copied. The
    caller hands in a scratch directory (`stages.stage_output`) and has seen to it that
    `planned_bytes` are free.

    Raises `DataError` if the plan is inconsistent or made for another model, and
    `CheckpointError` if a source weight is NaN or infinite.
    """
    check_plan(plan, source)
    layout = _layout(source, plan, shard_bytes)
    hashes = write_model(layout, _plan_blocks(source, plan), directory)
    return Written(Checkpoint.open(directory), hashes)


def planned_hashes(source: Checkpoint, plan: PruningPlan) -> dict[str, str]:
    """Return the SHA-256 of every file that `apply_plan` would write, and write nothing.

    Raises as `apply_plan` does.
    """
    check_plan(plan, source)
    return write_model(_layout(source, plan), _plan_blocks(source, plan), None)


def apply_edit(
    source: Checkpoint,
    edit: WeightEdit,
    editor: "Editor",
    directory: Path,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Copy `source` into the existing, empty `directory`, its projections changed by `editor`.

    `editor` gets the two-dimensional tensors of the layers, in layer order, one at a time, and
    returns weights of the same shape and dtype. Memory holds one of them, its result and what
    `editor` needs: some 60 MB for magnitude and Wanda, gigabytes for SparseGPT (see there).

    Raises `DataError` if the edit was made for another model, and `CheckpointError` if a weight is
    NaN or infinite, before or after.
    """
    check_edit(edit, source)
    zeros: dict[str, int] = {}
    blocks = _edit_blocks(source, edit, editor, zeros)
    hashes = write_model(_layout(source, edit, shard_bytes), blocks, directory, workers=1)
    return Written(Checkpoint.open(directory), hashes, zeros)


def edited_hashes(source: Checkpoint, edit: WeightEdit, editor: "Editor") -> dict[str, str]:
    """Return the SHA-256 of every file that `apply_edit` would write, and write nothing.

    Raises as `apply_edit` does.
    """
    check_edit(edit, source)
    return write_model(
        _layout(source, edit), _edit_blocks(source, edit, editor, {}), None, workers=1
    )


def planned_bytes(source: Checkpoint, change: PruningPlan | WeightEdit) -> int:
    """Return the bytes of all files that applying `change` will write, headers included.

    Raises as `apply_plan` and `apply_edit` do for a change that is not of this checkpoint.
    """
    if isinstance(change, PruningPlan):
        check_plan(change, source)
    else:
        check_edit(change, source)
    return _layout(source, change).num_bytes


def _layout(
    source: Checkpoint, change: PruningPlan | WeightEdit, shard_bytes: int = SHARD_BYTES
) -> Layout:
    """Return everything of the output but its weights."""
    plan = change if isinstance(change, PruningPlan) else None
    tensors = [
        source.tensors[_source_name(row, plan)].to_write(row.name, row.shape)
        for row in tensor_rows(plan.target if plan else source.arch)
    ]
    small = {path.name: path.read_bytes() for path in tokenizer_files(source.directory)}
    small["config.json"] = config_text(_config(source, plan)).encode()
    return lay_out(tensors, small, shard_bytes)


def _source_name(row: TensorRow, plan: PruningPlan | None) -> str:
    """Return the source's name of a target tensor: a plan renumbers layers, nothing else."""
    if plan is None or row.layer is None:
        return row.name
    return layer_tensor_name(plan.layers[row.layer], split_layer(row.name)[1])


def _plan_blocks(source: Checkpoint, plan: PruningPlan) -> Blocks:
    """Return the function that reads what `plan` keeps of a tensor, block by block."""
    rows = {row.name: row for row in tensor_rows(plan.target)}
    hidden_cut = plan.target.hidden_size < plan.source.hidden_size

    def blocks(tensor: NewTensor) -> Iterable[Raw]:
        row = rows[tensor.name]
        stored = source.tensors[_source_name(row, plan)]
        kept = [_kept(plan, row, dim, size) for dim, size in enumerate(stored.shape)]
        cut = _take(stored.row_blocks(), *kept)
        if not (plan.rescale_norms and hidden_cut and _is_hidden_norm(row)):
            return cut
        scale = norm_scale(plan.source, plan.target)
        return (_scaled(block, scale, stored) for block in cut)

    return blocks


def _scaled(block: Raw, scale: float, stored: StoredTensor) -> Raw:
    """Return `block` of the norm `stored` times `scale`."""
    with np.errstate(over="ignore"):  # seen below
        scaled = stored.format.from_float64(stored.format.to_float64(block) * scale)
    if not stored.format.all_finite(scaled):
        raise CheckpointError(
            f"{stored.shard.parent}: {stored.name} times {scale:.3f} exceeds {stored.dtype}; "
            "prune with rescale_norms=false or convert the model to BF16"
        )
    return scaled


def _take(
    blocks: Iterable[Raw], rows: Indices | None, columns: Indices | None = None
) -> Iterator[Raw]:
    """Yield `blocks` (consecutive rows of a matrix) with only `rows` and `columns` left."""
    start = 0
    for block in blocks:
        end = start + len(block)
        if rows is not None:
            first, last = np.searchsorted(rows, (start, end))
            block = block.take(rows[first:last] - start, axis=0)
        yield block if columns is None else block.take(columns, axis=1)
        start = end


def _kept(plan: PruningPlan, row: TensorRow, dim: int, size: int) -> Indices | None:
    """Return what stays of a dimension of `size`, ascending; None if that is everything."""
    axis, layer = row.axes[dim], row.layer
    if axis == "hidden":
        kept = np.array(plan.hidden, np.intp)
    elif axis == "ffn" and layer is not None:
        kept = np.array(plan.ffn[layer], np.intp)
    elif axis in ("heads", "groups") and layer is not None:
        units = plan.heads[layer] if axis == "heads" else plan.groups[layer]
        offsets = np.arange(plan.source.head_dim)
        kept = (np.array(units, np.intp)[:, None] * plan.source.head_dim + offsets).ravel()
    else:
        return None
    return kept if len(kept) < size else None


def _is_hidden_norm(row: TensorRow) -> bool:
    return row.axes == ("hidden",) and row.name.endswith("norm.weight")


def _edit_blocks(
    source: Checkpoint, edit: WeightEdit, editor: "Editor", zeros: dict[str, int]
) -> Blocks:
    """Return the function that reads a tensor and edits the layers' matrices; fills `zeros`."""
    edited = {row.name: row for row in projections(source.arch)}

    def blocks(tensor: NewTensor) -> Iterable[Raw]:
        stored, row = source.tensors[tensor.name], edited.get(tensor.name)
        if row is None:
            return stored.row_blocks()
        weight = source.read(row.name)
        result = editor(row, weight)
        assert (result.shape, result.dtype) == (weight.shape, weight.dtype), row.name
        raw = _raw(result).view(stored.format.raw)
        if not stored.format.all_finite(raw):
            raise CheckpointError(
                f"{source.directory}: {edit.method} made NaN or infinite weights of {row.name}; "
                "its statistics are damaged or too few; score again on more text"
            )
        zeros[row.name] = result.numel() - int(result.count_nonzero())
        return [raw]

    return blocks


def _raw(tensor: "torch.Tensor") -> Raw:
    import torch

    raw: Raw = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return raw


def _config(source: Checkpoint, plan: PruningPlan | None) -> dict[str, Any]:
    """Return the output's ``config.json``: the source's, but for what a plan changes."""
    config = plan.target.to_hf_config(base=source.config) if plan else dict(source.config)
    config.pop("_name_or_path", None)
    if plan and "dtype" in source.config and "torch_dtype" not in source.config:  # its newer name
        config.pop("torch_dtype", None)
    if plan and config.get("layer_types"):
        config["layer_types"] = [config["layer_types"][layer] for layer in plan.layers]
    return config
