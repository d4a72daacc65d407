"""Which pairs of lemmas a sentence to train on may hold, told from its words alone."""

from collections.abc import Iterable, Iterator

from nemo_bielik.data.tiny_polish.lexicon import Adjective, Noun, Verb
from nemo_bielik.data.tiny_polish.splits import HeldOutPairs


class TaughtPairs(HeldOutPairs):
    """The opposite: `holds` is true of the pairs that training may contain."""

    def holds(self, noun: Noun, partner: Adjective | Verb) -> bool:
        """Tell whether training may contain this very pair."""
        return not super().holds(noun, partner)


class HeldOutWords:
    """Finds held-out pairs in a text by its words alone, whatever they may be forms of."""

    def __init__(
        self, pairs: HeldOutPairs, nouns: Iterable[Noun], partners: Iterable[Adjective | Verb]
    ) -> None:
        self._partners_of = pairs.partners_of
        self._nouns: dict[str, set[str]] = {}
        self._partners: dict[str, set[str]] = {}
        for noun in nouns:
            for form in noun.forms.values():
                self._nouns.setdefault(form, set()).add(noun.lemma)
        for partner in partners:
            for form in _forms(partner):
                self._partners.setdefault(form, set()).add(partner.lemma)

    def meet_in(self, text: str) -> bool:
        """Tell whether some noun and some partner in `text` may be a held-out pair."""
        words = [word.strip(".,?–").lower() for word in text.split()]
        partners = {lemma for word in words for lemma in self._partners.get(word, ())}
        nouns = {lemma for word in words for lemma in self._nouns.get(word, ())}
        return any(not partners.isdisjoint(self._partners_of[noun]) for noun in nouns)


def _forms(partner: Adjective | Verb) -> Iterator[str]:
    if isinstance(partner, Adjective):
        yield from partner.forms.values()
    else:
        yield partner.lemma
        yield from partner.present.values()
        yield from partner.past.values()
