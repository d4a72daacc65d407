"""Narration: clauses in the third person, alone or joined; other domains borrow from here."""

from collections.abc import Callable, Iterator

from nemo_bielik.data.tiny_polish.grammar import PAST, PRESENT, Composer, finish, to_be, which
from nemo_bielik.data.tiny_polish.inflection import Case, Number
from nemo_bielik.data.tiny_polish.lexicon import Noun, Verb

_ANYTIME = ("rano", "wieczorem", "latem", "zimą", "po południu", "dzisiaj", "w sobotę")
_PAST_TIMES = (*_ANYTIME, "wczoraj", "dawno temu", "w zeszłym roku", "tamtego dnia")
_PRESENT_TIMES = (*_ANYTIME, "teraz", "od rana")
_HABITS = ("często", "zwykle", "czasem", "zawsze", "codziennie")
_JOINTS = (", a ", ", ale ", " i ", ", więc ")
_CONJUNCTIONS = ("kiedy", "ponieważ", "chociaż", "gdy")
_ALIVE = frozenset({"person", "animal"})
_PEOPLE = frozenset({"person"})
_DESCRIBED = frozenset({"person", "animal", "thing", "text", "building", "garden", "open"})


def tense_of(c: Composer) -> str:
    """Draw a tense."""
    return PAST if c.chance(0.5) else PRESENT


def time_of(c: Composer, tense: str, negated: bool) -> str:
    """Draw an adverb of time that suits the tense."""
    if not negated and c.chance(0.4):
        return c.pick(_HABITS)
    return c.pick(_PAST_TIMES if tense == PAST else _PRESENT_TIMES)


def _subject(c: Composer, noun: Noun, number: Number, adjectives: float = 0.5) -> str:
    phrase = c.phrase(noun, Case.NOM, number, adjectives)
    if noun.kind in _ALIVE and c.chance(0.1):
        owner = c.noun(_PEOPLE)
        if owner is not noun:
            return f"{phrase} {c.phrase(owner, Case.GEN, c.number(), 0.3)}"
    return phrase


def says_of(c: Composer, verb: Verb, tense: str, number: Number, noun: Noun, negated: bool) -> str:
    """Conjugate the verb for the subject, behind ``nie`` when negated."""
    form = c.third_person(verb, tense, number, noun.gender)
    return f"nie {form}" if negated else form


def transitive(c: Composer, tense: str, with_time: bool = True) -> str:
    """Subject, verb and object, some negated, some with a time or a place."""
    negated = c.chance(0.25)
    prepositional = c.chance(0.3)
    lexicon = c.lexicon
    verb = c.verb(lexicon.prepositional_verbs if prepositional else lexicon.verbs)
    noun, number = c.noun(verb.subjects), c.number()
    words = [
        _subject(c, noun, number),
        says_of(c, verb, tense, number, noun, negated),
        c.object(verb, negated, avoid=(noun.lemma,)),
    ]
    if Case.DAT in verb.tolerates and c.chance(0.2):
        words.append(f"dla {c.phrase(c.noun(_PEOPLE), Case.GEN, c.number(), 0.3)}")
    if with_time and c.chance(0.35):
        words.insert(0, time_of(c, tense, negated))
    return " ".join(words)


def plain(c: Composer, tense: str, with_time: bool = True) -> str:
    """Subject and verb, most with a place."""
    verb = c.verb(c.lexicon.plain_verbs)
    noun, number = c.noun(verb.subjects), c.number()
    negated = c.chance(0.15)
    says = says_of(c, verb, tense, number, noun, negated)
    subject = _subject(c, noun, number)
    if c.chance(0.2):
        return f"{c.place(noun.kind, avoid=(noun.lemma,))} {says} {subject}"
    words = [subject, says, c.place(noun.kind, avoid=(noun.lemma,))]
    if with_time and c.chance(0.25):
        words.insert(0, time_of(c, tense, negated))
    return " ".join(words)


def giving(c: Composer, tense: str) -> str:
    """Subject, verb, to whom and what."""
    verb = c.verb(c.lexicon.giving_verbs)
    noun, number = c.noun(verb.subjects), c.number()
    negated = c.chance(0.15)
    receiver = c.noun(_PEOPLE)
    while receiver is noun:
        receiver = c.noun(_PEOPLE)
    says = says_of(c, verb, tense, number, noun, negated)
    to_whom = c.phrase(receiver, Case.DAT, c.number(), 0.4)
    return f"{_subject(c, noun, number)} {says} {to_whom} {c.object(verb, negated)}"


def predicative(c: Composer, tense: str) -> str:
    """Subject, ``być`` and an adjective."""
    noun, number = c.noun(_DESCRIBED), c.number()
    subject = _subject(c, noun, number, adjectives=0.0)
    negation = "nie " if c.chance(0.2) else ""
    return f"{subject} {negation}{to_be(tense, number, noun.gender)} {c.predicate(noun, number)}"


def relative(c: Composer, tense: str) -> str:
    """A subject with a relative clause, then a verb."""
    noun, number = c.noun(_ALIVE), c.number()
    subject = c.phrase(noun, Case.NOM, number, 0.3)
    inner = c.verb(c.lexicon.verbs, noun.kind)
    outer = c.verb(c.lexicon.plain_verbs, noun.kind)
    inner_says = c.third_person(inner, tense, number, noun.gender)
    outer_says = c.third_person(outer, tense, number, noun.gender)
    pronoun = which(number, noun.gender)
    what = c.object(inner, avoid=(noun.lemma,))
    where = c.place(noun.kind, avoid=(noun.lemma,))
    return f"{subject}, {pronoun} {inner_says} {what}, {outer_says} {where}"


def compound(c: Composer, tense: str) -> str:
    """Two clauses of the same tense."""
    first = plain(c, tense, with_time=False)
    second = transitive(c, tense, with_time=False)
    if c.chance(0.5):
        return f"{first}{c.pick(_JOINTS)}{second}"
    return f"{c.pick(_CONJUNCTIONS)} {first}, {second}"


_NARRATION: tuple[Callable[[Composer, str], str], ...] = (
    *(transitive, transitive, transitive, plain, plain),
    *(giving, predicative, relative, compound),
)


def narration(c: Composer) -> str:
    """One sentence of a tale."""
    return finish(c.pick(_NARRATION)(c, tense_of(c)))


def count_simple_sentences(c: Composer) -> int:
    """Count the distinct sentences of one frame alone: a lower bound on the whole grammar.

    The frame is adjective, subject, verb, adjective, object, everything singular and the verb in
    the present. For each verb the strings on either side of it are counted once each, and
    different verbs have different forms, so that no sentence is counted twice.
    """
    total = 0
    for verb in c.lexicon.verbs:
        assert verb.governs is not None
        subjects = set(_singular_phrases(c, verb.subjects, Case.NOM))
        total += len(subjects) * len(set(_singular_phrases(c, verb.objects, verb.governs)))
    return total


def _singular_phrases(c: Composer, kinds: frozenset[str], case: Case) -> Iterator[str]:
    for kind in kinds:
        for noun in c.lexicon.nouns_by_kind[kind]:
            for adjective in c.lexicon.adjectives_by_kind[kind]:
                form = adjective.forms[case, Number.SG, noun.gender]
                yield f"{form} {noun.forms[case, Number.SG]}"
