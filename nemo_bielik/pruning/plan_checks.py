"""Whether a pruning plan or a weight edit is consistent and belongs to a checkpoint."""

from collections.abc import Sequence

from nemo_bielik.artifacts import PruningPlan, WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.methods import find_method
from nemo_bielik.pruning.select import check_target
from nemo_bielik.pruning.sparsity import Sparsity


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
        _check_uniform(name, plan.layers, kept)
        for layer, indices in zip(plan.layers, kept, strict=True):
            _check_kept(f"{name} of layer {layer}", indices, size, limit)
    _check_grouping(plan)


def check_edit(edit: WeightEdit, source: Checkpoint) -> None:
    """Raise `DataError` or `ConfigError` unless `edit` is sound and was made for `source`."""
    _check_settings(edit)
    if edit.arch.replace(name=source.arch.name) != source.arch:
        raise DataError(
            f"weight edit: was made for another architecture than that of {source.directory}"
        )
    if edit.source_model and edit.source_model != source.fingerprint():
        raise DataError(f"weight edit: was made for other weights than those of {source.directory}")
    Sparsity.parse(edit.sparsity, edit.pattern).require_fit(source.arch)


def _check_settings(edit: WeightEdit) -> None:
    for name in ("method", "pattern", "scope", "scores"):
        if not isinstance(getattr(edit, name), str):
            raise DataError(f"weight edit: {name} is {getattr(edit, name)!r}; it must be a string")
    for name in ("sparsity", "damping"):
        if type(getattr(edit, name)) not in (int, float):
            raise DataError(f"weight edit: {name} is {getattr(edit, name)!r}; it must be a number")
    if find_method(edit.method).structured:
        raise DataError(f"weight edit: {edit.method} removes whole units and edits no weights")
    if edit.scope not in ("layer", "model"):
        raise DataError(f"weight edit: scope is {edit.scope!r}; it must be layer or model")


def _check_uniform(name: str, layers: Sequence[int], kept: Sequence[Sequence[int]]) -> None:
    sizes = {len(indices) for indices in kept}
    if len(sizes) > 1:
        other = next(n for n, indices in enumerate(kept) if len(indices) != len(kept[0]))
        raise DataError(
            f"pruning plan: {name} keeps {len(kept[0])} in layer {layers[0]} but "
            f"{len(kept[other])} in layer {layers[other]}; transformers, vLLM and llama.cpp read "
            "one size for all layers, so keep as many in each"
        )


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
