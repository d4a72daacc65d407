"""Scores and a target architecture → which layers, heads and channels are kept.

The scores are sums of squares over the samples, so the L2 norm of the report's equations 8 and 9
is taken here, by a square root, after every rank and language has been added up. Ties go to the
lower index, so that a plan never depends on the sorting algorithm.
"""

from collections.abc import Sequence

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import PruningPlan, ScoreTable
from nemo_bielik.errors import ConfigError

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


def select(scores: ScoreTable, target: ModelArch, *, rescale_norms: bool = True) -> PruningPlan:
    """Return what to keep of the scored model so that it takes the shape of `target`.

    - layers: those of lowest Block Influence go (equation 5);
    - hidden channels: Σ over the norms of √(sum of squares), one set for the model (equation 8);
    - ffn channels: √(sum of squares), per layer (equation 9);
    - heads: the best query groups by the summed importance of their heads, and in each of those
      the best heads, so that every group keeps as many heads as the others.

    `rescale_norms` keeps the function where the cut hidden channels were zero (`norm_scale`).
    Raises `ConfigError` if `target` cannot be reached by cutting.
    """
    source = scores.arch
    check_target(source, target)
    layers = best(scores.block_influence(), target.num_layers)
    groups, heads = [], []
    for layer in layers:
        kept_groups, kept_heads = _best_heads(np.sqrt(scores.heads[layer]), source, target)
        groups.append(kept_groups)
        heads.append(kept_heads)
    eps = rescaled_eps(source, target) if rescale_norms else source.rms_norm_eps
    return PruningPlan(
        source=source,
        target=target.replace(rms_norm_eps=eps),
        layers=layers,
        hidden=best(hidden_importance(scores), target.hidden_size),
        ffn=[best(np.sqrt(scores.ffn[layer]), target.ffn_hidden_size) for layer in layers],
        groups=groups,
        heads=heads,
        rescale_norms=rescale_norms,
        source_model=scores.model,
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


def hidden_importance(scores: ScoreTable) -> Float64:
    """Return equation 8: L2 over the samples at every norm, summed over the norms, [hidden]."""
    importance: Float64 = np.sqrt(scores.hidden).sum(axis=0)
    return importance


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
    importance: Float64, source: ModelArch, target: ModelArch
) -> tuple[list[int], list[int]]:
    """Return the kept query groups and heads of one layer; `importance` is [heads]."""
    size = source.heads_per_group
    by_group = importance.reshape(source.num_query_groups, size)
    groups = best(by_group.sum(axis=1), target.num_query_groups)
    heads = [
        group * size + head
        for group in groups
        for head in best(by_group[group], target.heads_per_group)
    ]
    return groups, heads


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
