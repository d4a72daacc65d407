"""Building blocks of sentences: a random composer that agrees and governs as Polish does."""

import random
from collections.abc import Iterable, Sequence

from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Lexicon, Noun, Preposition, Verb
from nemo_bielik.data.tiny_polish.splits import Sentence

PRESENT, PAST = "present", "past"
_SIBILANTS = ("s", "z", "ś", "ź", "ż")
_VOWELS = "aąeęioóuy"
_WAS = {Gender.FEMININE: "była", Gender.NEUTER: "było"}
_WHICH = {Gender.FEMININE: "która", Gender.NEUTER: "które"}


def before(preposition: str, phrase: str) -> str:
    """Join a preposition to what follows, with its vowel where Polish needs one.

    ``z`` and ``w`` become ``ze`` and ``we`` before their own kind of consonant and another one:
    *ze studentem*, *we wniosku*, but *z siostrą*, *w wieży*.
    """
    # sz and rz are one sound, so the consonant to look at comes after them
    sound = 2 if phrase[:2] in ("sz", "rz") else 1
    cluster = phrase[sound] not in _VOWELS
    if preposition == "z" and cluster and (phrase[0] in _SIBILANTS or phrase[:2] == "ws"):
        preposition = "ze"
    if preposition == "w" and cluster and phrase[0] in "wf":
        preposition = "we"
    return f"{preposition} {phrase}"


def finish(text: str, mark: str = ".") -> str:
    """Make a sentence of a clause: a capital at the start, a mark at the end."""
    return text[0].upper() + text[1:] + mark


class Composer:
    """Draws words at random and inflects them; remembers the lemmas of the current sentence."""

    def __init__(self, lexicon: Lexicon, seed: str) -> None:
        self.lexicon = lexicon
        # A string seed is hashed by random.Random itself, the same way everywhere.
        self.random = random.Random(seed).random
        self._pools: dict[frozenset[str], tuple[Noun, ...]] = {}
        self._nouns: set[str] = set()
        self._partners: set[str] = set()

    def chance(self, probability: float) -> bool:
        """Draw true with this probability."""
        return self.random() < probability

    def pick[T](self, options: Sequence[T]) -> T:
        """Draw one of the options."""
        return options[int(self.random() * len(options))]

    def sentence(self, text: str) -> Sentence:
        """Close the current sentence and forget its lemmas."""
        closed = Sentence(text, frozenset(self._nouns), frozenset(self._partners))
        self.forget()
        return closed

    def forget(self) -> None:
        """Start a new sentence."""
        self._nouns.clear()
        self._partners.clear()

    def noun(self, kinds: frozenset[str]) -> Noun:
        """Draw a noun of one of these kinds."""
        pool = self._pools.get(kinds)
        if pool is None:
            pool = tuple(noun for noun in self.lexicon.nouns if noun.kind in kinds)
            self._pools[kinds] = pool
        return self.pick(pool)

    def number(self) -> Number:
        """Draw a number; two in three are singular."""
        return Number.SG if self.chance(0.67) else Number.PL

    def phrase(self, noun: Noun, case: Case, number: Number, adjectives: float = 0.5) -> str:
        """Inflect the noun, with probability `adjectives` behind an adjective that agrees."""
        self._nouns.add(noun.lemma)
        form = noun.forms[case, number]
        if not self.chance(adjectives):
            return form
        adjective = self.pick(self.lexicon.adjectives_by_kind[noun.kind])
        self._partners.add(adjective.lemma)
        return f"{adjective.forms[case, number, noun.gender]} {form}"

    def predicate(self, noun: Noun, number: Number) -> str:
        """Draw an adjective in the nominative that agrees with the subject."""
        self._nouns.add(noun.lemma)
        adjective = self.pick(self.lexicon.adjectives_by_kind[noun.kind])
        self._partners.add(adjective.lemma)
        return adjective.forms[Case.NOM, number, noun.gender]

    def participle(self, noun: Noun, number: Number) -> str:
        """Draw a passive participle in the nominative that agrees with the subject."""
        participle = self.pick(self.lexicon.participles)
        while participle.lemma in self._partners:  # no *sprawdzony dokument został sprawdzony*
            participle = self.pick(self.lexicon.participles)
        self._partners.add(participle.lemma)
        return participle.forms[Case.NOM, number, noun.gender]

    def verb(self, verbs: Sequence[Verb], kind: str | None = None) -> Verb:
        """Draw a verb, if `kind` is given one whose subject may be of that kind."""
        verb = self.pick(verbs)
        while kind is not None and kind not in verb.subjects:
            verb = self.pick(verbs)
        self._partners.add(verb.lemma)
        return verb

    def third_person(self, verb: Verb, tense: str, number: Number, gender: Gender) -> str:
        """Conjugate in the third person, with ``się`` where the verb has it."""
        form = verb.present[3, number] if tense == PRESENT else verb.past[3, number, gender]
        return f"{form} się" if verb.reflexive else form

    def object_case(self, verb: Verb, negated: bool) -> Case:
        """The case of the object: an accusative turns into a genitive under negation."""
        assert verb.governs is not None
        is_genitive = negated and verb.governs is Case.ACC and not verb.preposition
        return Case.GEN if is_genitive else verb.governs

    def object(self, verb: Verb, negated: bool = False, avoid: Iterable[str] = ()) -> str:
        """Draw an object with its preposition; `avoid` lists lemmas not to repeat."""
        noun = self.noun(verb.objects)
        while noun.lemma in avoid:
            noun = self.noun(verb.objects)
        phrase = self.phrase(noun, self.object_case(verb, negated), self.number())
        return before(verb.preposition, phrase) if verb.preposition else phrase

    def place(self, kind: str, avoid: Iterable[str] = ()) -> str:
        """Draw an adverbial that says where, beside what or with whom a subject of `kind` is."""
        preposition = self._preposition(kind)
        noun = self.noun(preposition.kinds)
        while noun.lemma in avoid:
            noun = self.noun(preposition.kinds)
        return before(preposition.word, self.phrase(noun, preposition.case, self.number(), 0.4))

    def _preposition(self, kind: str) -> Preposition:
        preposition = self.pick(self.lexicon.prepositions)
        is_alive = kind in ("person", "animal")
        while not is_alive and preposition.word in ("z", "bez", "dzięki"):
            preposition = self.pick(self.lexicon.prepositions)
        return preposition


def to_be(tense: str, number: Number, gender: Gender) -> str:
    """Conjugate ``być`` in the third person."""
    if tense == PRESENT:
        return "jest" if number is Number.SG else "są"
    if number is Number.PL:
        return "byli" if gender is Gender.PERSONAL else "były"
    return _WAS.get(gender, "był")


def which(number: Number, gender: Gender) -> str:
    """The relative pronoun ``który`` in the nominative."""
    if number is Number.PL:
        return "którzy" if gender is Gender.PERSONAL else "które"
    return _WHICH.get(gender, "który")
