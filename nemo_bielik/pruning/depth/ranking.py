"""What `bielik depth` makes, ``depth.json``, and how much its choices agree.

Two choices of n layers agree by the share of their layers that both drop, |A ∩ B| / n; two random
choices among L layers share n / L. (Jaccard's index is a / (2 − a) of this share a.)
"""

import dataclasses
import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from nemo_bielik.artifact_files import explain_fields, load_json, save_json
from nemo_bielik.pruning.depth.ways import Sets

DEPTH_NAME = "depth.json"


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The layers that go at one count, and the model right after: perplexity, accuracies."""

    dropped: list[int]
    measured: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Stability:
    """What one way chose on samples that share nothing.

    Attributes:
        size: windows of text, or items of each suite, in a sample.
        available: those that the samples were drawn from.
        choices: for every sample, what goes at every count; empty if too few are available.
    """

    way: str
    size: int
    available: int
    choices: list[Sets]

    def overlaps(self) -> list[float]:
        """Return, at every count, the share of layers in common, mean over pairs of samples."""
        pairs = [overlaps(a, b) for a, b in itertools.combinations(self.choices, 2)]
        return [statistics.fmean(at_count) for at_count in zip(*pairs, strict=True)]


@dataclass(frozen=True, kw_only=True)
class DepthRanking:
    """Which layers each way drops at every count, from 1 to the most.

    Attributes:
        model: fingerprint of the checkpoint.
        whole: what was measured of the model before any cut.
        ways: by name; ``ways[name][n - 1]`` is the cut of n layers.
        chosen_by, judged_on: numbers of windows, tokens and items.
        stability: empty if not asked for.
    """

    model: str
    num_layers: int
    whole: dict[str, float]
    ways: dict[str, list[Cut]]
    chosen_by: dict[str, int]
    judged_on: dict[str, int]
    stability: list[Stability]

    @property
    def most(self) -> int:
        """The largest number of layers that was dropped."""
        return min(len(cuts) for cuts in self.ways.values())

    def sets(self, way: str) -> Sets:
        """Return the layers that `way` drops at every count."""
        return [cut.dropped for cut in self.ways[way]]

    def agreement(self) -> dict[tuple[str, str], list[float]]:
        """Return, for every two ways, the share of layers in common at every count."""
        pairs = itertools.combinations(self.ways, 2)
        return {(a, b): overlaps(self.sets(a), self.sets(b)) for a, b in pairs}

    def save(self, path: Path) -> None:
        """Write JSON; the agreement, which follows from the rest, is written for readers."""
        value = dataclasses.asdict(self)
        for stored, own in zip(value["stability"], self.stability, strict=True):
            stored["overlaps"] = own.overlaps()
        agreement = [
            {"ways": list(pair), "overlaps": shares} for pair, shares in self.agreement().items()
        ]
        save_json(path, value | {"agreement": agreement})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        value = load_json(path, "ranking of layers")
        with explain_fields("ranking of layers", path):
            del value["agreement"]
            ways = {name: [Cut(**cut) for cut in cuts] for name, cuts in value["ways"].items()}
            stability = [Stability(**_without_overlaps(own)) for own in value["stability"]]
            return cls(**{**value, "ways": ways, "stability": stability})


def overlap(first: Sequence[int], second: Sequence[int]) -> float:
    """Return the share of layers in common of two sets of one size."""
    assert len(first) == len(second), "only sets of one size are compared"
    return len(set(first) & set(second)) / len(first)


def overlaps(first: Sets, second: Sets) -> list[float]:
    """Return `overlap` at every count."""
    return [overlap(a, b) for a, b in zip(first, second, strict=True)]


def _without_overlaps(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stored.items() if name != "overlaps"}
