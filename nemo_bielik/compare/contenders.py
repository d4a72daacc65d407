"""What stands in a comparison: methods, each at the same number of remaining parameters.

A contender is written ``method`` or ``method@variant``: ``wanda@2:4`` (a pattern) or
``llm-pruner@lora`` (recovery through low-rank adapters, as that paper has it).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.pruning.methods import Method, find_method
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.sparsity import Sparsity, projections

DEFAULT = (
    "minitron",
    "shortgpt",
    "llm-pruner",
    "llm-pruner@lora",
    "sheared-llama",
    "magnitude",
    "wanda",
    "sparsegpt",
    "sparsegpt@2:4",
)
LORA = "lora"


@dataclass(frozen=True)
class Contender:
    """One row of a comparison.

    Attributes:
        name: as given, ``wanda@2:4``; `label` is the same as a file name.
        cut: settings of `PruneConfig` beside the method and the paths.
    """

    name: str
    method: Method
    variant: str
    cut: dict[str, Any]

    @property
    def label(self) -> str:
        """A name for directories."""
        return self.name.replace("@", "-").replace(":", "of")

    @property
    def cut_label(self) -> str:
        """The name of the pruned model, which recovering another way does not change."""
        return self.method.name if self.variant == LORA else self.label

    def prune_config(self, model: Path, scores: Path | None, output: Path) -> PruneConfig:
        """Return the settings that make this contender's pruned model."""
        return PruneConfig(
            model=model, scores=scores, output=output, method=self.method.name, **self.cut
        )


def contender(name: str, source: ModelArch, target: ModelArch) -> Contender:
    """Return the contender called `name`, cut to as many parameters as `target` has.

    ShortGPT takes the number of layers that comes nearest, unstructured methods the share of zeros
    that leaves as many weights; a pattern has a size of its own. Raises `ConfigError` for an
    unknown method or variant.
    """
    method_name, _, variant = name.partition("@")
    method = find_method(method_name)
    if not method.structured:
        if variant == LORA:
            raise ConfigError(
                f"{name}: adapters would fill the zeros of {method_name}; only structured methods "
                f"recover through @{LORA}"
            )
        if variant:
            Sparsity.parse(None, variant).require_fit(source)
        cut: dict[str, Any] = {"pattern": variant} if variant else _sparsity(source, target)
        return Contender(name, method, variant, cut)
    if variant not in ("", LORA):
        raise ConfigError(f"{name}: {method_name} has no variant {variant!r}; it knows @{LORA}")
    if method.cuts == ("num_layers",):
        return Contender(name, method, variant, {"num_layers": nearest_depth(source, target)})
    sizes = {size: getattr(target, size) for size in method.cuts}
    changed = {size: n for size, n in sizes.items() if n != getattr(source, size)}
    return Contender(name, method, variant, changed)


def nearest_depth(source: ModelArch, target: ModelArch) -> int:
    """Return how many layers of `source` come nearest to the parameters of `target`."""
    wanted = count_parameters(target)
    depths = range(1, source.num_layers + 1)
    return min(
        depths, key=lambda depth: abs(count_parameters(source.replace(num_layers=depth)) - wanted)
    )


def _sparsity(source: ModelArch, target: ModelArch) -> dict[str, Any]:
    zeros = count_parameters(source) - count_parameters(target)
    share = zeros / sum(row.numel for row in projections(source))
    if not 0 < share < 1:
        raise ConfigError(
            f"as few parameters as {target.name} has would take {share:.0%} of the projections' "
            "weights; choose a larger target"
        )
    return {"sparsity": share}
