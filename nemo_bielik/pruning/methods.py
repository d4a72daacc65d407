"""The one table of pruning methods: what each cuts, what it must know first, and where it lives.

All go through score → select → apply. A structured method ranks units (`Importance`) and yields a
`PruningPlan`; the others yield a `WeightEdit`. Names are ``module:object``, resolved when used.
"""

import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.pruning.select import PRUNABLE


@dataclass(frozen=True)
class Statistics:
    """What `bielik score` collects on calibration text for one or more methods.

    Attributes:
        file: what tells a score directory of this kind.
        collect: function of (ScoreConfig, Checkpoint, Manifest), called on every rank.
    """

    name: str
    file: str
    collect: str


@dataclass(frozen=True)
class Method:
    """One way to make a model smaller.

    Attributes:
        granularity: what it removes, in words.
        statistics: row of `STATISTICS` that it needs; empty: the weights alone.
        cuts: sizes of `PRUNABLE` that it can shrink; none: it zeroes single weights.
        function: of (score directory, PruneConfig) → `Importance`, or, where it zeroes single
            weights, of (Checkpoint, score directory, WeightEdit) → editor of one weight matrix.
    """

    name: str
    paper: str
    granularity: str
    statistics: str
    cuts: tuple[str, ...]
    function: str

    @property
    def structured(self) -> bool:
        """Whether the result is smaller, rather than sparse."""
        return bool(self.cuts)


STATISTICS: Mapping[str, Statistics] = {
    row.name: row
    for row in (
        Statistics(
            "activations",
            "scores.safetensors",
            "nemo_bielik.pruning.minitron_mcore:collect",
        ),
        Statistics(
            "input-norms",
            "input_norms.safetensors",
            "nemo_bielik.pruning.inputs_mcore:collect",
        ),
        Statistics(
            "hessians",
            "hessians.json",
            "nemo_bielik.pruning.inputs_mcore:collect",
        ),
        Statistics(
            "gradients",
            "taylor.safetensors",
            "nemo_bielik.pruning.gradients_mcore:collect",
        ),
        Statistics(
            "masks",
            "masks.safetensors",
            "nemo_bielik.pruning.masks_mcore:collect",
        ),
    )
}

METHODS: Mapping[str, Method] = {
    row.name: row
    for row in (
        Method(
            "minitron",
            "Muralidharan et al. 2024",
            "layers, hidden and ffn channels, heads, query groups",
            "activations",
            PRUNABLE,
            "nemo_bielik.pruning.minitron:importance",
        ),
        Method(
            "shortgpt",
            "Men et al. 2024",
            "layers",
            "activations",
            ("num_layers",),
            "nemo_bielik.pruning.shortgpt:importance",
        ),
        Method(
            "llm-pruner",
            "Ma et al. 2023",
            "coupled groups: layers, hidden and ffn channels, heads, query groups",
            "gradients",
            PRUNABLE,
            "nemo_bielik.pruning.llm_pruner:importance",
        ),
        Method(
            "sheared-llama",
            "Xia et al. 2023",
            "layers, hidden and ffn channels, heads, query groups",
            "masks",
            PRUNABLE,
            "nemo_bielik.pruning.sheared_llama:importance",
        ),
        Method(
            "magnitude",
            "Han et al. 2015",
            "single weights, or n of every m",
            "",
            (),
            "nemo_bielik.pruning.magnitude:editor",
        ),
        Method(
            "wanda",
            "Sun et al. 2023",
            "single weights, or n of every m",
            "input-norms",
            (),
            "nemo_bielik.pruning.wanda:editor",
        ),
        Method(
            "sparsegpt",
            "Frantar and Alistarh 2023",
            "single weights, or n of every m; the others are adjusted",
            "hessians",
            (),
            "nemo_bielik.pruning.sparsegpt:editor",
        ),
    )
}


def find_method(name: str) -> Method:
    """Return the method called `name`; an unknown one raises `ConfigError`."""
    if name not in METHODS:
        raise ConfigError(
            f"method is {name!r}{nearest(name, METHODS)}; methods: {', '.join(METHODS)}"
        )
    return METHODS[name]


def check_cuts(method: Method, source: ModelArch, target: ModelArch) -> None:
    """Raise `ConfigError` for a size of `target` that `method` cannot cut out of `source`."""
    for name in PRUNABLE:
        if getattr(target, name) != getattr(source, name) and name not in method.cuts:
            raise ConfigError(
                f"{method.name} removes {method.granularity} and cannot bring {name} from "
                f"{getattr(source, name)} to {getattr(target, name)}; choose another method or "
                "leave that size as it is"
            )


def resolve(target: str) -> Any:
    """Import ``module:object``."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(kw_only=True)
class MethodsConfig:
    """The pruning methods: paper, what each removes, and what it must know first."""

    json: bool = field(default=False, metadata={"help": "print JSON"})


def print_methods(config: MethodsConfig) -> None:
    """Print the table of methods."""
    if config.json:
        print(json.dumps([asdict(method) for method in METHODS.values()], indent=2))
        return
    for method in METHODS.values():
        needs = f"bielik score --method {method.name}" if method.statistics else "no scores"
        print(f"{method.name:<14} {method.paper:<26} needs {needs}\n{'':<14} {method.granularity}")
