"""The prune stage: a model, its scores and what to take away → a smaller or sparser directory."""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik import stages
from nemo_bielik.arch import preset
from nemo_bielik.artifacts import EDIT_NAME, PLAN_NAME, PruningPlan, WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import file_sha256, require_space
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.change import (
    edit_change,
    figures,
    plan_change,
    require_scores,
    summary,
)
from nemo_bielik.pruning.methods import METHODS, Method, find_method, resolve
from nemo_bielik.pruning.select import PRUNABLE
from nemo_bielik.pruning.slice import Written, apply_edit, apply_plan, planned_bytes
from nemo_bielik.pruning.sparsity import Sparsity

_USED_BY = {
    "taylor": ("llm-pruner",),
    "aggregation": ("llm-pruner",),
    "scope": ("magnitude",),
    "damping": ("sparsegpt",),
    "rescale_norms": tuple(name for name, method in METHODS.items() if method.structured),
}


@dataclass(kw_only=True)
class PruneConfig:
    """What to cut, and by which method; sizes that are not given stay as they are in the model."""

    model: Path = field(metadata={"help": "model directory to cut"})
    output: Path = field(metadata={"help": "model directory to make"})
    method: str = field(
        default="minitron",
        metadata={"help": "how to choose what goes; `bielik methods` lists them"},
    )
    scores: Path | None = field(
        default=None, metadata={"help": "directory made by `bielik score` for model and method"}
    )
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
        default=True,
        metadata={
            "help": "norm weights × √(H/H′): cutting hidden channels of zeros changes nothing"
        },
    )
    layers_from: Path | None = field(
        default=None, metadata={"help": "directory made by `bielik depth`: it says which layers go"}
    )
    layers_way: str = field(
        default="greedy-perplexity", metadata={"help": "which of its orders to follow"}
    )
    taylor: Literal["first", "fisher"] = field(
        default="first", metadata={"help": "llm-pruner: gradients alone, or with the Fisher term"}
    )
    aggregation: Literal["sum", "prod", "max", "last"] = field(
        default="sum", metadata={"help": "llm-pruner: how a coupled group's tensors are combined"}
    )
    sparsity: float | None = field(
        default=None, metadata={"help": "share of the projections' weights to zero, e.g. 0.5"}
    )
    pattern: str = field(
        default="", metadata={"help": "keep n of every m weights instead, e.g. 2:4 or 4:8"}
    )
    scope: Literal["layer", "model"] = field(
        default="layer",
        metadata={"help": "magnitude: weights compete within a tensor or the model"},
    )

    damping: float = field(
        default=0.01, metadata={"help": "sparsegpt: λ as a share of the Hessian's mean diagonal"}
    )

    def __post_init__(self) -> None:
        check_choices(self)
        method = find_method(self.method)
        self._check_foreign(method)
        sizes = self.sizes()
        if method.structured:
            self._check_structured(sizes)
        else:
            self._check_unstructured(sizes)
        if method.statistics and self.scores is None and self.layers_from is None:
            raise ConfigError(
                f"{self.method} needs --scores; make them with "
                f"`bielik score --method {self.method}`"
            )
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} is {size}; it must be at least 1")
        if self.target:
            preset(self.target)

    def _check_foreign(self, method: Method) -> None:
        """Refuse settings that another method would use: nobody sets them to be ignored."""
        for setting in dataclasses.fields(self):
            users = _USED_BY.get(setting.name, (method.name,))
            if method.name not in users and getattr(self, setting.name) != setting.default:
                raise ConfigError(
                    f"{setting.name} means nothing to {method.name}; it is a setting of "
                    f"{' and '.join(users)}"
                )
        if not method.statistics and self.scores is not None:
            raise ConfigError(f"{method.name} looks at the weights alone; drop scores")
        if self.damping <= 0:
            raise ConfigError(f"damping is {self.damping}; it must be above 0")

    def _check_structured(self, sizes: dict[str, int]) -> None:
        if self.sparsity is not None or self.pattern:
            raise ConfigError(
                f"{self.method} removes whole units and leaves no zeros; drop sparsity and pattern "
                "and give sizes, or choose magnitude, wanda or sparsegpt"
            )
        if not self.target and not sizes:
            options = ", ".join("--" + name.replace("_", "-") for name in PRUNABLE)
            raise ConfigError(f"nothing to prune: give --target or some of {options}")

    def _check_unstructured(self, sizes: dict[str, int]) -> None:
        if sizes or self.target or self.layers_from:
            raise ConfigError(
                f"{self.method} zeroes single weights and changes no size; give --sparsity or "
                "--pattern instead of sizes, or choose another method"
            )
        if (self.sparsity is None) == (not self.pattern):
            raise ConfigError(f"{self.method} needs either --sparsity or --pattern, not both")
        if self.scope == "model" and self.pattern:
            raise ConfigError("a pattern holds within every row; scope=model needs a sparsity")
        Sparsity.parse(self.sparsity, self.pattern)

    def sizes(self) -> dict[str, int]:
        """Return the sizes that were given one by one; they win over those of `target`."""
        given = {name: getattr(self, name) for name in PRUNABLE}
        return {name: size for name, size in given.items() if size is not None}


def prune(config: PruneConfig) -> None:
    """Cut or thin out `config.model` and write the result with its plan or edit beside it.

    Raises `CheckpointError`, `DataError`, `ConfigError` or `StorageError` for a damaged model,
    scores of another model, an unreachable target, and a taken or full output.
    """
    started = time.monotonic()
    source, change, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        print(f"{config.output}: already done")
        return
    require_space(config.output, planned_bytes(source, change))
    results = figures(change)
    with stages.stage_output(config.output, manifest, results, started) as scratch:
        written, name = _apply(config, source, change, scratch)
        change.save(scratch / name)
        results["sha256"] = {**written.sha256, name: file_sha256(scratch / name)}
        if written.zeros:
            results["zeros"] = sum(written.zeros.values())
    print(f"{config.output}:\n" + "\n".join(summary(change)))


def _apply(
    config: PruneConfig, source: Checkpoint, change: PruningPlan | WeightEdit, directory: Path
) -> tuple[Written, str]:
    """Write the changed model; return what was written and the name of the change's own file."""
    if isinstance(change, PruningPlan):
        return apply_plan(source, change, directory), PLAN_NAME
    editor = resolve(find_method(change.method).function)(source, config.scores, change)
    return apply_edit(source, change, editor, directory), EDIT_NAME


def describe(config: PruneConfig) -> list[str]:
    """Return the lines that ``bielik prune --dry-run`` adds: sizes, layers and bytes."""
    source, change, manifest = _prepare(config)
    done = stages.is_done(config.output, manifest)
    state = "already done" if done else f"{planned_bytes(source, change):,} bytes to write"
    return [*summary(change), f"{config.output}: {state}"]


def _prepare(config: PruneConfig) -> tuple[Checkpoint, PruningPlan | WeightEdit, Manifest]:
    source = Checkpoint.open(config.model)
    inputs = {"model": source.fingerprint()}
    statistics = require_scores(config)
    if statistics:
        inputs["scores"] = file_sha256(statistics)
    change: PruningPlan | WeightEdit
    if find_method(config.method).structured:
        change = plan_change(config, source)
    else:
        change = edit_change(config, source, inputs.get("scores", ""))
    return source, change, stages.describe("prune", config, inputs)
