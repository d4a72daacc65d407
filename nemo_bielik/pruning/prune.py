"""The prune stage: a model, its scores and a target shape → a smaller model directory."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik import stages
from nemo_bielik.arch import ModelArch, preset
from nemo_bielik.artifacts import PLAN_NAME, SCORES_NAME, PruningPlan, ScoreTable
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256, require_space
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.select import PRUNABLE, select
from nemo_bielik.pruning.slice import apply_plan, planned_bytes
from nemo_bielik.tensors import tensor_rows

_SHOWN_LAYERS = 64


@dataclass(kw_only=True)
class PruneConfig:
    """What to cut; sizes that are not given stay as they are in the model."""

    model: Path = field(metadata={"help": "model directory to cut"})
    scores: Path = field(metadata={"help": "directory made by `bielik score` for this model"})
    output: Path = field(metadata={"help": "model directory to make"})
    target: str = field(default="", metadata={"help": "preset whose sizes to take, e.g. exp-010"})
    num_layers: int | None = field(default=None, metadata={"help": "layers to keep"})
    hidden_size: int | None = field(default=None, metadata={"help": "hidden channels to keep"})
    ffn_hidden_size: int | None = field(
        default=None, metadata={"help": "ffn channels to keep in every layer"}
    )
    num_attention_heads: int | None = field(
        default=None, metadata={"help": "query heads to keep in every layer"}
    )
    num_query_groups: int | None = field(
        default=None, metadata={"help": "query groups (KV heads) to keep in every layer"}
    )
    rescale_norms: bool = field(
        default=True, metadata={"help": "scale the norms by what the cut hidden channels took"}
    )

    def __post_init__(self) -> None:
        sizes = self.sizes()
        if not self.target and not sizes:
            options = ", ".join("--" + name.replace("_", "-") for name in PRUNABLE)
            raise ConfigError(f"nothing to prune: give --target or some of {options}")
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} is {size}; it must be at least 1")
        if self.target:
            preset(self.target)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that were given one by one; they win over those of `target`."""
        given = {name: getattr(self, name) for name in PRUNABLE}
        return {name: size for name, size in given.items() if size is not None}


def prune(config: PruneConfig) -> None:
    """Cut `config.model` to the target and write the result with its plan beside it.

    Raises `CheckpointError`, `DataError`, `ConfigError` or `StorageError` for a damaged model,
    scores of another model, an unreachable target, and a taken or full output.
    """
    source, plan, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        print(f"{config.output}: already done")
        return
    require_space(config.output, planned_bytes(source, plan))
    with stages.stage_output(config.output, manifest, figures(plan)) as scratch:
        apply_plan(source, plan, scratch)
        plan.save(scratch / PLAN_NAME)
    print(f"{config.output}:\n" + "\n".join(summary(plan)))


def describe(config: PruneConfig) -> list[str]:
    """Return the lines that ``bielik prune --dry-run`` adds: sizes, layers and bytes."""
    source, plan, manifest = _prepare(config)
    done = stages.is_done(config.output, manifest)
    state = "already done" if done else f"{planned_bytes(source, plan) / 1e9:.3f} GB to write"
    return [*summary(plan), f"{config.output}: {state}"]


def target_arch(config: PruneConfig, source: ModelArch) -> ModelArch:
    """Return `source` with the sizes of the preset, if one is named, and then those given."""
    sizes: dict[str, Any] = {}
    if config.target:
        wanted = preset(config.target)
        # The head dimension cannot change; taken along, a preset that does not fit is refused.
        sizes = {name: getattr(wanted, name) for name in (*PRUNABLE, "head_dim")}
    return source.replace(name=config.target or config.output.name, **(sizes | config.sizes()))


def figures(plan: PruningPlan) -> dict[str, Any]:
    """Return what the manifest tells of a plan: parameters on disk, sizes and kept layers."""
    before, after = (_parameters(arch) for arch in (plan.source, plan.target))
    return {
        "parameters_before": before,
        "parameters_after": after,
        "reduction_percent": round(100 * (1 - after / before), 2),
        "kept_layers": plan.layers,
        "sizes": {name: getattr(plan.target, name) for name in PRUNABLE},
    }


def summary(plan: PruningPlan) -> list[str]:
    """Return a few lines for people: what every size becomes, parameters, dropped layers."""
    values = figures(plan)
    lines = [
        f"  {name:<20} {getattr(plan.source, name):>7,} → {getattr(plan.target, name):>7,}"
        for name in PRUNABLE
    ]
    lines.append(
        f"  parameters on disk   {values['parameters_before']:,} → "
        f"{values['parameters_after']:,} (−{values['reduction_percent']:.1f} %)"
    )
    dropped = sorted(set(range(plan.source.num_layers)) - set(plan.layers))
    if dropped:
        lines.append(f"  layers dropped       {', '.join(map(str, dropped[:_SHOWN_LAYERS]))}")
    return lines


def _prepare(config: PruneConfig) -> tuple[Checkpoint, PruningPlan, Manifest]:
    source = Checkpoint.open(config.model)
    scores, path = _load_scores(config, source)
    plan = select(scores, target_arch(config, source.arch), rescale_norms=config.rescale_norms)
    inputs = {"model": source.fingerprint(), "scores": file_sha256(path)}
    return source, plan, stages.describe("prune", config, inputs)


def _load_scores(config: PruneConfig, source: Checkpoint) -> tuple[ScoreTable, Path]:
    path = config.scores / SCORES_NAME if config.scores.is_dir() else config.scores
    scores = ScoreTable.load(path)
    if scores.model != source.fingerprint():
        raise DataError(
            f"{path}: these scores are of another model ({scores.arch.name}) than {config.model}; "
            "score this one with `bielik score`"
        )
    return scores, path


def _parameters(arch: ModelArch) -> int:
    return sum(row.numel for row in tensor_rows(arch))
