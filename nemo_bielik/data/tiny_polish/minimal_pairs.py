"""Minimal pairs: a correct sentence beside one with a single wrong ending, by phenomenon.

Pairs come in twins: where form A is right and B wrong in one, B is right and A wrong in the
other, so that the frequency of words alone scores exactly a half. The lemmas that must agree are
a held-out pair, which no training text contains.
"""

from dataclasses import dataclass

from nemo_bielik.data.tiny_polish.grammar import Composer
from nemo_bielik.data.tiny_polish.phenomena import PHENOMENA, Maker, Twins
from nemo_bielik.data.tiny_polish.splits import HeldOutPairs
from nemo_bielik.errors import ConfigError

_TRIES_PER_PAIR = 2_000


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in one word; `good` is correct."""

    phenomenon: str
    good: str
    bad: str


def make_minimal_pairs(c: Composer, held_out: HeldOutPairs, count: int) -> list[MinimalPair]:
    """Make `count` pairs of each phenomenon (an even number), twins one after the other."""
    pairs: list[MinimalPair] = []
    for phenomenon, maker in PHENOMENA.items():
        for twins in _distinct_twins(c, held_out, maker, count, phenomenon):
            pairs += [MinimalPair(phenomenon, good, bad) for good, bad in twins]
    return pairs


def _distinct_twins(
    c: Composer, held_out: HeldOutPairs, maker: Maker, count: int, phenomenon: str
) -> list[Twins]:
    found: dict[str, Twins] = {}
    for _ in range(_TRIES_PER_PAIR * count):
        if len(found) == count // 2:
            return list(found.values())
        twins = maker(c, held_out)
        if twins and twins[0][0] not in found and twins[1][0] not in found:
            found[twins[0][0]] = twins
    raise ConfigError(
        f"pairs_per_phenomenon={count}: only {2 * len(found)} {phenomenon} pairs were found; "
        "ask for fewer, or raise held_out_share"
    )
