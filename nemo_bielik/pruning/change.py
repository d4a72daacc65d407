"""What a prune run will do to a model: a plan of what is kept, or an edit of single weights."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.arch import ModelArch, preset
from nemo_bielik.artifacts import PruningPlan, WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.methods import STATISTICS, check_cuts, find_method, resolve
from nemo_bielik.pruning.select import PRUNABLE, Importance, check_target, select
from nemo_bielik.pruning.sparsity import Sparsity
from nemo_bielik.tensors import TensorRow, tensor_rows

if TYPE_CHECKING:
    import torch

    from nemo_bielik.pruning.prune import PruneConfig

Editor = Callable[[TensorRow, "torch.Tensor"], "torch.Tensor"]
_SHOWN_LAYERS = 64


def require_scores(config: "PruneConfig") -> Path | None:
    """Return the file of the statistics that the method needs, None where it needs none."""
    needed = find_method(config.method).statistics
    if not needed or config.scores is None:
        return None
    path = config.scores / STATISTICS[needed].file
    if not path.is_file():
        raise DataError(
            f"{config.scores}: holds no {path.name}, which {config.method} needs; make it with "
            f"`bielik score --method {config.method}`"
        )
    return path


def plan_change(config: "PruneConfig", source: Checkpoint) -> PruningPlan:
    """Return what a structured method keeps of `source`.

    Raises `ConfigError` for a size that the method cannot cut and `DataError` for statistics of
    another model.
    """
    method = find_method(config.method)
    target = checked_target(config, source.arch)
    found = Importance(arch=source.arch, model=source.fingerprint())
    if config.scores is not None:
        found = resolve(method.function)(config.scores, config)
    if found.model != source.fingerprint():
        raise DataError(
            f"{config.scores}: these scores are of another model ({found.arch.name}) than "
            f"{config.model}; score this one with `bielik score`"
        )
    layers = _chosen_layers(config, target, found.model)
    return select(found, target, rescale_norms=config.rescale_norms, layers=layers)


def edit_change(config: "PruneConfig", source: Checkpoint, scores: str) -> WeightEdit:
    """Return which share of the weights of `source` becomes zero, and in what pattern.

    `scores` is the SHA-256 of the statistics, "" for a method without any.
    """
    sparsity = Sparsity.parse(config.sparsity, config.pattern)
    sparsity.require_fit(source.arch)
    return WeightEdit(
        arch=source.arch,
        method=config.method,
        sparsity=sparsity.ratio,
        pattern=config.pattern,
        scope=config.scope,
        damping=config.damping,
        scores=scores,
        source_model=source.fingerprint(),
    )


def target_arch(config: "PruneConfig", source: ModelArch) -> ModelArch:
    """Return `source` with the sizes of the preset, if one is named, and then those given."""
    sizes: dict[str, Any] = {}
    if config.target:
        wanted = preset(config.target)
        # The head dimension cannot change; taken along, a preset that does not fit is refused.
        sizes = {name: getattr(wanted, name) for name in (*PRUNABLE, "head_dim")}
    return source.replace(name=config.target or config.output.name, **(sizes | config.sizes()))


def checked_target(config: "PruneConfig", source: ModelArch) -> ModelArch:
    """As `target_arch`; raise `ConfigError` for sizes that the method cannot bring about."""
    target = target_arch(config, source)
    check_cuts(find_method(config.method), source, target)
    check_target(source, target)
    return target


def figures(change: PruningPlan | WeightEdit) -> dict[str, Any]:
    """Return what the manifest tells of a change: parameters on disk, sizes and kept layers."""
    if isinstance(change, WeightEdit):
        return {"sparsity": change.sparsity, "pattern": change.pattern}
    before, after = (_parameters(arch) for arch in (change.source, change.target))
    return {
        "parameters_before": before,
        "parameters_after": after,
        "reduction_percent": round(100 * (1 - after / before), 2),
        "kept_layers": change.layers,
        "sizes": {name: getattr(change.target, name) for name in PRUNABLE},
    }


def summary(change: PruningPlan | WeightEdit) -> list[str]:
    """Return a few lines for people: what every size becomes, parameters, dropped layers."""
    if isinstance(change, WeightEdit):
        pattern = f", {change.pattern} in every row" if change.pattern else ""
        return [f"  zeros by {change.method:<11} {change.sparsity:.1%} of the projections{pattern}"]
    values = figures(change)
    lines = [
        f"  {name:<20} {getattr(change.source, name):>7,} → {getattr(change.target, name):>7,}"
        for name in PRUNABLE
    ]
    lines.append(
        f"  parameters on disk   {values['parameters_before']:,} → "
        f"{values['parameters_after']:,} (−{values['reduction_percent']:.1f} %)"
    )
    dropped = sorted(set(range(change.source.num_layers)) - set(change.layers))
    if dropped:
        lines.append(f"  layers dropped       {', '.join(map(str, dropped[:_SHOWN_LAYERS]))}")
    return lines


def _chosen_layers(config: "PruneConfig", target: ModelArch, source: str) -> list[int] | None:
    if config.layers_from is None:
        return None
    from nemo_bielik.pruning.depth.stage import kept_layers

    return kept_layers(config.layers_from, config.layers_way, target.num_layers, source)


def _parameters(arch: ModelArch) -> int:
    return sum(row.numel for row in tensor_rows(arch))
