"""Which text belongs to which split, decided by a hash that is the same on every machine."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nemo_bielik.data.tiny_polish.lexicon import Adjective, Noun, Verb

TRAINING_SPLITS = ("train", "recovery", "calibration", "validation")
SPLITS = (*TRAINING_SPLITS, "test")
# Upper bounds of the hash fraction. Test has no share: it takes what holds a held-out pair.
_BOUNDS = ((0.75, "train"), (0.90, "recovery"), (0.95, "calibration"), (1.0, "validation"))


class Sentence(NamedTuple):
    """A sentence with the lemmas that may form held-out pairs: its nouns and their partners."""

    text: str
    nouns: frozenset[str]
    partners: frozenset[str]  # adjectives and verbs


def stable_fraction(*parts: object) -> float:
    """Hash the parts to a number in [0, 1)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def training_split(*parts: object) -> str:
    """Name the split other than test that the parts are hashed to."""
    fraction = stable_fraction(*parts)
    return next(split for bound, split in _BOUNDS if fraction < bound)


class HeldOutPairs:
    """The (noun, adjective) and (noun, verb) lemma pairs that no training text may contain.

    A sentence holds a pair when both lemmas occur in it anywhere, which is stricter than
    agreement or government and can be checked from the words alone.
    """

    def __init__(
        self, nouns: Iterable[Noun], partners: Iterable[Adjective | Verb], share: float
    ) -> None:
        lemmas = sorted({partner.lemma for partner in partners})
        self.partners_of: Mapping[str, frozenset[str]] = {
            noun.lemma: frozenset(
                lemma for lemma in lemmas if stable_fraction("pair", noun.lemma, lemma) < share
            )
            for noun in nouns
        }

    def __len__(self) -> int:
        return sum(len(partners) for partners in self.partners_of.values())

    def holds(self, noun: Noun, partner: Adjective | Verb) -> bool:
        """Tell whether this very pair is held out."""
        return partner.lemma in self.partners_of[noun.lemma]

    def any_in(self, sentence: Sentence) -> bool:
        """Tell whether the sentence contains a held-out pair."""
        return any(not sentence.partners.isdisjoint(self.partners_of[n]) for n in sentence.nouns)

    def split_of(self, sentence: Sentence) -> str:
        """Name the only split in which the sentence may occur."""
        if self.any_in(sentence):
            return "test"
        return training_split("sentence", sentence.text)
