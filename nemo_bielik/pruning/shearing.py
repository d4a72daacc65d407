"""Settings of mask learning, what it must reach, and which domain it reads next.

Method: Xia et al., "Sheared LLaMA" (2023), the report's equation 7. Everything here is a pure
function or a value; the masks are in `hard_concrete`, the loop in `masks_mcore`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning.select import check_target
from nemo_bielik.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(kw_only=True)
class ShearingConfig:
    """How long and how fast to learn masks, to which shape, on which domains of text.

    Learning must bring the expected number of open units under every constraint to within half a
    unit of `target`, or to within one in 500 of the units where that is more (28 of 14,336 ffn
    channels); otherwise nothing is published. Pruning then keeps exactly as many as `target` says,
    those of the highest log α.
    """

    target: Shape = field(default_factory=Shape)
    iters: int = field(
        default=300,
        metadata={"help": "steps of mask learning; a quarter more if the shape needs them"},
    )
    batch_size: int = field(default=16, metadata={"help": "sequences a step"})
    mask_lr: float = field(default=0.1, metadata={"help": "Adam's step on log α, downwards"})
    multiplier_lr: float = field(default=0.1, metadata={"help": "Adam's step on λ and φ, upwards"})
    warmup_share: float = field(
        default=0.6, metadata={"help": "share of the steps in which the target shape is approached"}
    )
    domains: list[Path] = field(
        default_factory=list,
        metadata={"help": "further token directories; with `data` they are the domains of text"},
    )
    proportions: list[float] = field(
        default_factory=list,
        metadata={"help": "initial weights of `data` and the domains, in this order; none: equal"},
    )
    update_interval: int = field(
        default=50, metadata={"help": "steps between updates of the domains' weights"}
    )
    evaluation_samples: int = field(
        default=16, metadata={"help": "sequences of each domain that its loss is measured on"}
    )
    save_interval: int = field(
        default=50, metadata={"help": "steps after which a killed run can be continued; 0: none"}
    )

    def __post_init__(self) -> None:
        for name in ("iters", "batch_size", "update_interval", "evaluation_samples"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("mask_lr", "multiplier_lr"):
            self._require(0 < getattr(self, name) < math.inf, name, "finite and above 0")
        self._require(0 <= self.warmup_share < 1, "warmup_share", "at least 0 and below 1")
        self._require(self.save_interval >= 0, "save_interval", "0 (never) or more")
        if self.proportions and len(self.proportions) != 1 + len(self.domains):
            raise ConfigError(
                f"shearing.proportions has {len(self.proportions)} values; give one for data and "
                f"one for each of the {len(self.domains)} domain(s), or none"
            )
        if any(not 0 < value < math.inf for value in self.proportions):
            raise ConfigError(
                f"shearing.proportions is {self.proportions}; every value must be above 0, because "
                "a domain of weight 0 stays at 0"
            )

    def _require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"shearing.{name} is {getattr(self, name)!r}; it must be {allowed}")


def target_shape(source: ModelArch, shape: Shape) -> ModelArch:
    """Return `source` cut to `shape`.

    Raises `ConfigError` if `shape` names no size, cuts nothing or cannot be cut out of `source`.
    """
    target = source.replace(name="shearing.target", **shape.given())
    if target.replace(name=source.name) == source:
        raise ConfigError(
            "shearing.target cuts nothing; give the shape to learn masks for, such as "
            "shearing.target.num_layers=40 shearing.target.ffn_hidden_size=11264"
        )
    check_target(source, target)
    return target


def open_counts(source: ModelArch, target: ModelArch) -> dict[str, tuple[int, int]]:
    """Return (units, units to stay open) of every kind of mask that `target` calls for.

    Layers and hidden channels are counted over the model; ffn channels and query groups in each
    layer, query heads in each group, because stock models know one size for all layers.
    """
    counts = {
        "layers": (source.num_layers, target.num_layers),
        "hidden": (source.hidden_size, target.hidden_size),
        "ffn": (source.ffn_hidden_size, target.ffn_hidden_size),
        "groups": (source.num_query_groups, target.num_query_groups),
        "heads": (source.heads_per_group, target.heads_per_group),
    }
    return {name: (units, kept) for name, (units, kept) in counts.items() if kept < units}


def mask_shapes(arch: ModelArch) -> dict[str, tuple[int, ...]]:
    """Return the shape of every kind of mask; a constraint counts along the last dimension."""
    layers, groups = arch.num_layers, arch.num_query_groups
    return {
        "layers": (layers,),
        "hidden": (arch.hidden_size,),
        "ffn": (layers, arch.ffn_hidden_size),
        "groups": (layers, groups),
        "heads": (layers, groups, arch.heads_per_group),
    }


def tolerance(units: int) -> float:
    """Return by how many units an expected size may be off: half a unit, or one in 500 if more.

    Half a unit is what rounds to the target; it decides below 250 units. In a row of thousands
    Adam's steps alone move the sum of so many probabilities by more than that for long.
    """
    return max(0.5, units / 500)


def warmed_up(target: float, step: int, warmup: int) -> float:
    """Return the share of open units asked for at `step`: linear from 1 to `target`."""
    return 1.0 + (target - 1.0) * min(1.0, step / warmup) if warmup else target


def lagrangian(
    shares: "Mapping[str, Tensor]",
    targets: Mapping[str, float],
    linear: "Mapping[str, Tensor]",
    quadratic: "Mapping[str, Tensor]",
) -> "Tensor":
    """Return Σ λ(ŝ − t) + φ(ŝ − t)² over all constraints (equation 7).

    `shares` are the expected shares ŝ of open units, one for each constraint of a kind: [] for
    layers and hidden channels, [layers] for ffn channels and groups, [layers, groups] for heads;
    λ (`linear`) and φ (`quadratic`) have the same shapes. The paper counts nested units once, as
    products of their masks; here every dimension has its own constraint, so that every size of
    the target is met by itself.
    """
    terms = []
    for name, share in shares.items():
        excess = share - targets[name]
        terms.append((linear[name] * excess + quadratic[name] * excess.square()).sum())
    return sum(terms[1:], start=terms[0])


def domain_names(data: Path, domains: Sequence[Path]) -> list[str]:
    """Return the names of the domains: those of their directories, which must differ."""
    names = [path.name for path in (data, *domains)]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"shearing.domains: {names.count(name)} directories are called {name!r}; domains "
                "are known by their directory's name, so give each its own"
            )
    return names


def updated_weights(
    weights: Sequence[float], losses: Sequence[float], references: Sequence[float]
) -> list[float]:
    """Return α_d · exp(max(ℓ_d − ℓ_ref,d, 0)), normalised: more of what was hurt more."""
    excess = [max(loss - ref, 0.0) for loss, ref in zip(losses, references, strict=True)]
    largest = max(excess)  # the common factor exp(largest) goes away in the quotient
    grown = [w * math.exp(x - largest) for w, x in zip(weights, excess, strict=True)]
    return [value / sum(grown) for value in grown]


def drawn_domains(weights: Sequence[float], count: int, seed: int, step: int) -> list[int]:
    """Return the domain of each of `count` sequences of a step, the same on every rank."""
    generator = np.random.default_rng((seed, step))
    drawn = generator.choice(len(weights), size=count, p=np.array(weights) / sum(weights))
    return [int(domain) for domain in drawn]
