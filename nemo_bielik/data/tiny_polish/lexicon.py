"""The lexicon: the tables of `nouns.py` and `words.py`, read and inflected once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from nemo_bielik.data.tiny_polish import nouns, words
from nemo_bielik.data.tiny_polish.inflection import (
    AdjectiveForms,
    Case,
    Gender,
    NounForms,
    Number,
    PastForms,
    PresentForms,
    conjugate_past,
    conjugate_present,
    decline_adjective,
    decline_feminine,
    decline_feminine_consonant,
    decline_masculine,
    decline_neuter,
    decline_young,
)

_Forms = dict[tuple[Case, Number], str]


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A noun with its 14 forms, by (case, number); `kind` is what it names, e.g. ``animal``."""

    lemma: str
    gender: Gender
    kind: str
    forms: NounForms = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Adjective:
    """An adjective with its forms, by (case, number, gender), and the kinds of noun it suits."""

    lemma: str
    kinds: frozenset[str]
    forms: AdjectiveForms = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """An imperfective verb with its forms and what it asks of subject and object.

    `governs` is the case of the object (None: no object); `preposition` stands before the object.
    `tolerates` lists further cases in which a bare noun may follow the verb, such as a beneficiary
    in the dative: those are never used as wrong forms.
    """

    lemma: str
    governs: Case | None
    preposition: str
    tolerates: frozenset[Case]
    subjects: frozenset[str]
    objects: frozenset[str]
    reflexive: bool
    present: PresentForms = field(repr=False)
    past: PastForms = field(repr=False)

    @property
    def infinitive(self) -> str:
        """The infinitive with its ``się``."""
        return f"{self.lemma} się" if self.reflexive else self.lemma


@dataclass(frozen=True)
class Preposition:
    """A preposition, the case it takes in this grammar and every case that it can take at all."""

    word: str
    case: Case
    possible: frozenset[Case]
    kinds: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """All words, grouped by their use; every group keeps the order of its table."""

    nouns: tuple[Noun, ...]
    adjectives: tuple[Adjective, ...]
    participles: tuple[Adjective, ...]
    verbs: tuple[Verb, ...]
    prepositional_verbs: tuple[Verb, ...]
    plain_verbs: tuple[Verb, ...]
    official_verbs: tuple[Verb, ...]
    giving_verbs: tuple[Verb, ...]
    official_people: tuple[Noun, ...]
    prepositions: tuple[Preposition, ...]
    nouns_by_kind: Mapping[str, tuple[Noun, ...]]
    adjectives_by_kind: Mapping[str, tuple[Adjective, ...]]

    @property
    def all_verbs(self) -> tuple[Verb, ...]:
        """Every verb, whatever its group."""
        return (
            *self.verbs,
            *self.prepositional_verbs,
            *self.plain_verbs,
            *self.official_verbs,
            *self.giving_verbs,
        )


def _cells(line: str) -> list[list[str]]:
    return [cell.split() for cell in line.split("|")]


def _lines(table: str) -> list[str]:
    return [line.strip() for line in table.strip().splitlines()]


def _apply_exceptions(forms: _Forms, exceptions: list[str]) -> _Forms:
    """Overwrite single forms as ``case=form`` or ``case.pl=form`` say; voc = loc unless said."""
    for exception in exceptions:
        slot, form = exception.split("=")
        case, _, number = slot.partition(".")
        forms[Case(case), Number(number or "sg")] = form
    return forms


def _read_nouns(
    table: Mapping[str, str], gender: Gender, decline: Callable[..., _Forms]
) -> Iterator[Noun]:
    for kind, text in table.items():
        for line in _lines(text):
            parts = [part for part in line.split() if "=" not in part]
            exceptions = [part for part in line.split() if "=" in part]
            forms = _apply_exceptions(decline(*parts), exceptions)
            yield Noun(lemma=parts[0], gender=gender, kind=kind, forms=forms)


def _masculine(gender: Gender) -> Callable[..., _Forms]:
    return lambda *parts: decline_masculine(gender, *parts)


def _all_nouns() -> Iterator[Noun]:
    yield from _read_nouns(nouns.PERSONAL, Gender.PERSONAL, _masculine(Gender.PERSONAL))
    yield from _read_nouns(nouns.ANIMATE, Gender.ANIMATE, _masculine(Gender.ANIMATE))
    yield from _read_nouns(nouns.INANIMATE, Gender.INANIMATE, _masculine(Gender.INANIMATE))
    yield from _read_nouns(nouns.FEMININE, Gender.FEMININE, decline_feminine)
    yield from _read_nouns(nouns.FEMININE_CONSONANT, Gender.FEMININE, decline_feminine_consonant)
    yield from _read_nouns(nouns.NEUTER, Gender.NEUTER, decline_neuter)
    young = {kind: "\n".join(text.split()) for kind, text in nouns.YOUNG.items()}
    yield from _read_nouns(young, Gender.NEUTER, decline_young)


def _all_adjectives() -> Iterator[Adjective]:
    for kinds, table in words.ADJECTIVES.items():
        for lemma, personal in _cells(table.strip().replace("\n", "|")):
            forms = decline_adjective(lemma, personal)
            yield Adjective(lemma=lemma, kinds=frozenset(kinds.split()), forms=forms)


def _make_verb(
    principal: list[str],
    subjects: list[str],
    objects: list[str],
    governs: list[str],
    tolerates: list[str],
) -> Verb:
    word, first, third, third_plural = principal
    lemma = word.removesuffix("_się")
    return Verb(
        lemma=lemma,
        governs=Case(governs[-1]) if governs else None,
        preposition=governs[0] if len(governs) == 2 else "",
        tolerates=frozenset(Case(case) for case in tolerates),
        subjects=frozenset(subjects),
        objects=frozenset(objects),
        reflexive=word.endswith("_się"),
        present=conjugate_present(first, third, third_plural),
        past=conjugate_past(lemma),
    )


def _read_verbs(table: str) -> tuple[Verb, ...]:
    verbs = []
    for line in _lines(table):
        principal, governs, subjects, objects, *rest = _cells(line)
        tolerates = rest[0] if rest else []
        verbs.append(_make_verb(principal, subjects, objects, governs, tolerates))
    return tuple(verbs)


def _read_plain_verbs(table: str) -> tuple[Verb, ...]:
    cells = [_cells(line) for line in _lines(table)]
    return tuple(_make_verb(principal, subjects, [], [], []) for principal, subjects in cells)


def _read_prepositions(table: str) -> tuple[Preposition, ...]:
    cells = [_cells(line) for line in _lines(table)]
    return tuple(
        Preposition(word[0], Case(case[0]), frozenset(map(Case, possible)), frozenset(kinds))
        for word, case, possible, kinds in cells
    )


@cache
def load_lexicon() -> Lexicon:
    """Read the tables; the same object every time."""
    noun_list = tuple(_all_nouns())
    adjectives = tuple(_all_adjectives())
    participles = words.PARTICIPLES.split()
    officials = words.OFFICIAL_PEOPLE.split()
    kinds = words.ALL.split()
    return Lexicon(
        nouns=noun_list,
        adjectives=adjectives,
        participles=tuple(a for a in adjectives if a.lemma in participles),
        verbs=_read_verbs(words.VERBS),
        prepositional_verbs=_read_verbs(words.PREPOSITIONAL_VERBS),
        plain_verbs=_read_plain_verbs(words.PLAIN_VERBS),
        official_verbs=_read_verbs(words.OFFICIAL_VERBS),
        giving_verbs=_read_verbs(words.GIVING_VERBS),
        official_people=tuple(n for n in noun_list if n.lemma in officials),
        prepositions=_read_prepositions(words.PREPOSITIONS),
        nouns_by_kind={k: tuple(n for n in noun_list if n.kind == k) for k in kinds},
        adjectives_by_kind={k: tuple(a for a in adjectives if k in a.kinds) for k in kinds},
    )
