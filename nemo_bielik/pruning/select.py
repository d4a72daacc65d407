"""Importance and a target architecture → which layers, heads and channels are kept.

Every structured method ends in an `Importance`; what follows is the same for all of them. Ties go
to the lower index, so that a plan never depends on the sorting algorithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.errors import ConfigError, DataError

#: What may shrink; `PruneConfig` offers the same five.
PRUNABLE = (
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
)
#: What pruning cannot change; rms_norm_eps follows from the hidden size (see `rescaled_eps`).
_FIXED = (
    "model_type",
    "vocab_size",
    "head_dim",
    "tie_word_embeddings",
    "max_position_embeddings",
    "rope_theta",
)


@dataclass(frozen=True, kw_only=True)
class Importance:
    """What a structured method says of every unit: higher is kept; None where it ranks none.

    Attributes:
        layers: [layers].
        hidden: [hidden], one ranking for the whole model.
        ffn: [layers, ffn].
        heads: [layers, heads].
        groups: [layers, query groups]; None: the sum of a group's heads.
        model: fingerprint of the scored checkpoint.
    """

    arch: ModelArch
    layers: Float64 | None = None
    hidden: Float64 | None = None
    ffn: Float64 | None = None
    heads: Float64 | None = None
    groups: Float64 | None = None
    model: str = ""

    def __post_init__(self) -> None:
        arch = self.arch
        for name, shape in {
            "layers": (arch.num_layers,),
            "hidden": (arch.hidden_size,),
            "ffn": (arch.num_layers, arch.ffn_hidden_size),
            "heads": (arch.num_layers, arch.num_attention_heads),
            "groups": (arch.num_layers, arch.num_query_groups),
        }.items():
            found = getattr(self, name)
            if found is not None and (found.shape != shape or np.isnan(found).any()):
                raise DataError(
                    f"importance of {name} must be {list(shape)} numbers as {arch.name} calls for; "
                    f"found {list(found.shape)}{' with NaN' if np.isnan(found).any() else ''}"
                )

    def kept(self, unit: str, count: int, layer: int | None = None) -> list[int]:
        """Return the `count` units to keep, ascending; all of them need no ranking."""
        ranking = getattr(self, unit)
        size = axis_length(self.arch, unit)
        if count == size:
            return list(range(size))
        if ranking is None:
            raise ConfigError(
                f"this method does not rank {_UNIT_NAMES[unit]}, so it cannot keep {count} of "
                f"{size}; choose another method or leave that size as it is"
            )
        return best(ranking if layer is None else ranking[layer], count)


_UNIT_NAMES = {
    "layers": "layers",
    "hidden": "hidden channels",
    "ffn": "ffn channels",
    "heads": "query heads",
    "groups": "query groups",
}


def axis_length(arch: ModelArch, unit: str) -> int:
    """Return how many units of a kind a model (or each of its layers) has."""
    return {
        "layers": arch.num_layers,
        "hidden": arch.hidden_size,
        "ffn": arch.ffn_hidden_size,
        "heads": arch.num_attention_heads,
        "groups": arch.num_query_groups,
    }[unit]


def select(
    importance: Importance,
    target: ModelArch,
    *,
    rescale_norms: bool = True,
    layers: Sequence[int] | None = None,
) -> PruningPlan:
    """Return what to keep of the scored model so that it takes the shape of `target`.

    Layers and hidden channels are ranked over the whole model, ffn channels within their layer.
    Of heads, the best query groups stay and in each of those the best heads, so that every group
    keeps as many heads as the others.

    `rescale_norms` keeps the function where the cut hidden channels were zero (`norm_scale`).
    `layers`, if given, are kept instead of those that `importance` ranks highest.
    Raises `ConfigError` if `target` cannot be reached by cutting.
    """
    source = importance.arch
    check_target(source, target)
    kept_layers = importance.kept("layers", target.num_layers) if layers is None else list(layers)
    groups, heads = [], []
    for layer in kept_layers:
        kept_groups, kept_heads = _best_heads(importance, layer, target)
        groups.append(kept_groups)
        heads.append(kept_heads)
    eps = rescaled_eps(source, target) if rescale_norms else source.rms_norm_eps
    return PruningPlan(
        source=source,
        target=target.replace(rms_norm_eps=eps),
        layers=kept_layers,
        hidden=importance.kept("hidden", target.hidden_size),
        ffn=[importance.kept("ffn", target.ffn_hidden_size, layer) for layer in kept_layers],
        groups=groups,
        heads=heads,
        rescale_norms=rescale_norms,
        source_model=importance.model,
    )


def keep_everything(arch: ModelArch, model: str = "") -> PruningPlan:
    """Return the plan that cuts nothing; `model` is the fingerprint of the checkpoint."""
    layers = list(range(arch.num_layers))
    return PruningPlan(
        source=arch,
        target=arch,
        layers=layers,
        hidden=list(range(arch.hidden_size)),
        ffn=[list(range(arch.ffn_hidden_size)) for _ in layers],
        groups=[list(range(arch.num_query_groups)) for _ in layers],
        heads=[list(range(arch.num_attention_heads)) for _ in layers],
        source_model=model,
    )


def norm_scale(source: ModelArch, target: ModelArch) -> float:
    """Return the factor √(H/H′) for RMSNorm weights when H hidden channels become H′.

    Where the cut channels are zero, Σx² is the same over H′ channels as over H, so their mean
    square m grows to m·H/H′. With eps′ = eps·H/H′ the divisor √(m·H/H′ + eps′) is the old one
    times √(H/H′), and the weights must grow by as much:
    w·√(H/H′) · x/√(m·H/H′ + eps·H/H′) = w · x/√(m + eps).
    """
    return float((source.hidden_size / target.hidden_size) ** 0.5)


def rescaled_eps(source: ModelArch, target: ModelArch) -> float:
    """Return eps·H/H′, the partner of `norm_scale`."""
    return source.rms_norm_eps * source.hidden_size / target.hidden_size


def best(importance: Float64, count: int) -> list[int]:
    """Return the indices of the `count` highest values, ascending; of equals the lower wins."""
    order = np.argsort(-importance, kind="stable")
    return sorted(int(index) for index in order[:count])


def check_target(source: ModelArch, target: ModelArch) -> None:
    """Raise `ConfigError` unless `target` can be cut out of `source`."""
    for field in _FIXED:
        if getattr(target, field) != getattr(source, field):
            raise ConfigError(
                f"{target.name}: {field} is {getattr(target, field)!r}, but the model has "
                f"{getattr(source, field)!r}; pruning changes only {_listed(PRUNABLE)}"
            )
    for field in PRUNABLE:
        if getattr(target, field) > getattr(source, field):
            raise ConfigError(
                f"{target.name}: {field} is {getattr(target, field)}; "
                f"it can be at most the model's {getattr(source, field)}"
            )
    if target.heads_per_group > source.heads_per_group:
        raise ConfigError(
            f"{target.name}: {target.num_attention_heads} heads in {target.num_query_groups} query "
            f"group(s) are {target.heads_per_group} a group, but the model's groups have "
            f"{source.heads_per_group}; lower num_attention_heads or raise num_query_groups"
        )


def _best_heads(
    importance: Importance, layer: int, target: ModelArch
) -> tuple[list[int], list[int]]:
    """Return the kept query groups and heads of one layer."""
    source = importance.arch
    size = source.heads_per_group
    if (target.num_query_groups, target.heads_per_group) == (source.num_query_groups, size):
        return list(range(source.num_query_groups)), list(range(source.num_attention_heads))
    if importance.heads is None:
        importance.kept("heads", target.num_attention_heads)  # raises, and says why
        raise AssertionError("a method that ranks groups ranks heads too")
    by_group = importance.heads[layer].reshape(source.num_query_groups, size)
    ranking = by_group.sum(axis=1) if importance.groups is None else importance.groups[layer]
    groups = best(ranking, target.num_query_groups)
    heads = [
        group * size + head
        for group in groups
        for head in best(by_group[group], target.heads_per_group)
    ]
    return groups, heads


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
