"""The phenomena of the minimal pairs: one maker each, from a random draw to two twins.

A draw that will not do gives None. A form counts as wrong only if it is no form of that noun, in
either number, in any case that the preposition or verb can take at all, or if it shares no
reading with the word it should agree with.
"""

from collections.abc import Callable, Iterable

from nemo_bielik.data.tiny_polish.grammar import PAST, PRESENT, Composer, before, finish
from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Adjective, Noun, Preposition, Verb
from nemo_bielik.data.tiny_polish.splits import HeldOutPairs

Twins = tuple[tuple[str, str], tuple[str, str]]  # (good, bad), (good, bad)
Maker = Callable[[Composer, HeldOutPairs], Twins | None]

_ALIVE = frozenset({"person", "animal"})
_PEOPLE = frozenset({"person"})


def noun_forms(noun: Noun, cases: Iterable[Case]) -> set[str]:
    """Collect the forms of the noun in these cases, in both numbers."""
    return {noun.forms[case, number] for case in cases for number in Number}


def can_agree(adjective: Adjective, form: str, noun: Noun, noun_form: str) -> bool:
    """Tell whether some case and number fits both forms."""
    return any(
        adjective.forms[case, number, noun.gender] == form and noun.forms[case, number] == noun_form
        for case in Case
        for number in Number
    )


def _swap(left: str, forms: tuple[str, str], right: str) -> tuple[str, str]:
    """Put the right form and the wrong one into the same surroundings."""
    good, bad = (" ".join(f"{left} {form} {right}".split()) for form in forms)
    return finish(good), finish(bad)


def _alive(c: Composer, kinds: frozenset[str], avoid: Noun | None = None) -> Noun:
    noun = c.noun(kinds & _ALIVE)
    while noun is avoid:
        noun = c.noun(kinds & _ALIVE)
    return noun


def _start(c: Composer, verb: Verb, avoid: Noun) -> str:
    """Subject and verb, up to the place where the object or adverbial begins."""
    noun, number = _alive(c, verb.subjects, avoid), c.number()
    says = c.third_person(verb, c.pick((PRESENT, PAST)), number, noun.gender)
    return f"{noun.forms[Case.NOM, number]} {says}"


def _clear_subject(c: Composer, avoid: Noun) -> tuple[Noun, Number] | None:
    """A person whose nominative is no form of an object, so that it can only be the subject."""
    noun, number = _alive(c, _PEOPLE, avoid), c.number()
    objects = set(Case) - {Case.NOM, Case.VOC}
    form = noun.forms[Case.NOM, number]
    return None if form in noun_forms(noun, objects) else (noun, number)


def _two_prepositions(c: Composer) -> tuple[Preposition, Preposition, Noun] | None:
    first, second = c.pick(c.lexicon.prepositions), c.pick(c.lexicon.prepositions)
    kinds = first.kinds & second.kinds
    if first.case is second.case or not kinds:
        return None
    return first, second, c.noun(kinds)


def _preposition_case(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Stoi obok domu*, not *obok domem*; beside it *przed domem*."""
    drawn = _two_prepositions(c)
    verb, number = c.pick(c.lexicon.plain_verbs), c.number()
    if drawn is None or not held_out.holds(drawn[2], verb):
        return None
    first, second, noun = drawn
    one, two = noun.forms[first.case, number], noun.forms[second.case, number]
    if two in noun_forms(noun, first.possible) or one in noun_forms(noun, second.possible):
        return None
    start = _start(c, verb, noun)
    return (
        _swap(f"{start} {_bare(first, one)}", (one, two), ""),
        _swap(f"{start} {_bare(second, two)}", (two, one), ""),
    )


def _bare(preposition: Preposition, phrase: str) -> str:
    """The preposition as it sounds before the phrase, without the phrase."""
    return before(preposition.word, phrase).split()[0]


def _verb_case(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Szuka domu*, not *szuka dom*; beside it *widzi dom*."""
    first, second = c.pick(c.lexicon.verbs), c.pick(c.lexicon.verbs)
    kinds = first.objects & second.objects
    if first.governs is second.governs or not kinds:
        return None
    noun, number = c.noun(kinds), c.number()
    if not (held_out.holds(noun, first) and held_out.holds(noun, second)):
        return None
    one, two = _governed(first, noun, number), _governed(second, noun, number)
    if two in noun_forms(noun, _taken(first)) or one in noun_forms(noun, _taken(second)):
        return None
    return _objects_of_two_verbs(c, (first, one), (second, two), noun)


def _objects_of_two_verbs(
    c: Composer, first: tuple[Verb, str], second: tuple[Verb, str], noun: Noun
) -> Twins | None:
    subject = _clear_subject(c, noun)
    if subject is None or not all("person" in verb.subjects for verb, _ in (first, second)):
        return None
    who, number = subject
    name, tense = who.forms[Case.NOM, number], c.pick((PRESENT, PAST))
    says = [c.third_person(verb, tense, number, who.gender) for verb, _ in (first, second)]
    return (
        _swap(f"{name} {says[0]}", (first[1], second[1]), ""),
        _swap(f"{name} {says[1]}", (second[1], first[1]), ""),
    )


def _governed(verb: Verb, noun: Noun, number: Number) -> str:
    assert verb.governs is not None
    return noun.forms[verb.governs, number]


def _taken(verb: Verb) -> set[Case]:
    assert verb.governs is not None
    return {verb.governs, *verb.tolerates}


def _genitive_of_negation(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Nie widzi domu*, not *nie widzi dom*; beside it *widzi dom*."""
    verb = c.pick(c.lexicon.verbs)
    noun, number = c.noun(verb.objects), c.number()
    if verb.governs is not Case.ACC or Case.GEN in verb.tolerates:
        return None
    if not held_out.holds(noun, verb):
        return None
    genitive, accusative = noun.forms[Case.GEN, number], noun.forms[Case.ACC, number]
    in_negation = noun_forms(noun, {Case.GEN, *verb.tolerates})
    is_clear = genitive not in noun_forms(noun, _taken(verb)) and accusative not in in_negation
    subject = _clear_subject(c, noun)
    if subject is None or not is_clear:
        return None
    who, count = subject
    says = c.third_person(verb, c.pick((PRESENT, PAST)), count, who.gender)
    name = who.forms[Case.NOM, count]
    return (
        _swap(f"{name} nie {says}", (genitive, accusative), ""),
        _swap(f"{name} {says}", (accusative, genitive), ""),
    )


def _place(c: Composer, *subjects: Noun) -> str:
    """Where the subjects are, but not with whom: *chłopiec z psem* can take a plural verb."""
    lemmas = [noun.lemma for noun in subjects]
    place = c.place(subjects[0].kind, lemmas)
    while place.startswith(("z ", "ze ")):
        place = c.place(subjects[0].kind, lemmas)
    return place


def _adjective_gender(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Stara szafa stoi*, not *stary szafa stoi*; beside it *stary stół stoi*."""
    adjective, verb, number = (
        c.pick(c.lexicon.adjectives),
        c.pick(c.lexicon.plain_verbs),
        c.number(),
    )
    kinds = adjective.kinds & verb.subjects
    if not kinds:
        return None
    return _agreement(c, held_out, adjective, verb, [(c.noun(kinds), number) for _ in range(2)])


def _adjective_number(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Stara szafa stoi*, not *stare szafa stoi*; beside it *stare szafy stoją*."""
    adjective, verb = c.pick(c.lexicon.adjectives), c.pick(c.lexicon.plain_verbs)
    kinds = adjective.kinds & verb.subjects
    if not kinds:
        return None
    noun = c.noun(kinds)
    return _agreement(c, held_out, adjective, verb, [(noun, number) for number in Number])


def _agreement(
    c: Composer,
    held_out: HeldOutPairs,
    adjective: Adjective,
    verb: Verb,
    subjects: list[tuple[Noun, Number]],
) -> Twins | None:
    """Let the adjective agree with one subject, then with the other."""
    if not all(held_out.holds(noun, adjective) for noun, _ in subjects):
        return None
    one, two = (adjective.forms[Case.NOM, number, noun.gender] for noun, number in subjects)
    first, second = (noun.forms[Case.NOM, number] for noun, number in subjects)
    if can_agree(adjective, two, subjects[0][0], first):
        return None
    if can_agree(adjective, one, subjects[1][0], second):
        return None
    tense, place = c.pick((PRESENT, PAST)), _place(c, *(noun for noun, _ in subjects))
    says = [c.third_person(verb, tense, number, noun.gender) for noun, number in subjects]
    return (
        _swap("", (one, two), f"{first} {says[0]} {place}"),
        _swap("", (two, one), f"{second} {says[1]} {place}"),
    )


def _adjective_case(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Przed starym domem*, not *przed starym domom*: the adjective tells the case."""
    drawn = _two_prepositions(c)
    if drawn is None:
        return None
    first, second, noun = drawn
    adjective, number = c.pick(c.lexicon.adjectives_by_kind[noun.kind]), c.number()
    if not held_out.holds(noun, adjective):
        return None
    one, two = noun.forms[first.case, number], noun.forms[second.case, number]
    signs = [adjective.forms[p.case, number, noun.gender] for p in (first, second)]
    # A genitive could be read as the owner of what an adjective stands for: *za chorym syna*.
    genitives = noun_forms(noun, {Case.GEN})
    is_loose = one in genitives or two in genitives
    if is_loose or can_agree(adjective, signs[0], noun, two):
        return None
    if can_agree(adjective, signs[1], noun, one):
        return None
    start = _start(c, c.pick(c.lexicon.plain_verbs), noun)
    return (
        _swap(f"{start} {before(first.word, signs[0])}", (one, two), ""),
        _swap(f"{start} {before(second.word, signs[1])}", (two, one), ""),
    )


def _subject_verb_number(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Kot śpi*, not *kot śpią*; beside it *koty śpią*."""
    verb = c.pick(c.lexicon.plain_verbs)
    noun = c.noun(verb.subjects)
    if not held_out.holds(noun, verb):
        return None
    place = _place(c, noun)
    one, two = verb.present[3, Number.SG], verb.present[3, Number.PL]
    return (
        _swap(noun.forms[Case.NOM, Number.SG], (one, two), place),
        _swap(noun.forms[Case.NOM, Number.PL], (two, one), place),
    )


def _past_gender(c: Composer, held_out: HeldOutPairs) -> Twins | None:
    """*Matka spała*, not *matka spał*; beside it *ojciec spał*."""
    verb, number = c.pick(c.lexicon.plain_verbs), c.number()
    nouns = c.noun(verb.subjects), c.noun(verb.subjects)
    if not all(held_out.holds(noun, verb) for noun in nouns):
        return None
    one, two = (verb.past[3, number, noun.gender] for noun in nouns)
    # chłopię and dziewczę may agree with the sex they mean
    is_loose = any(n.kind == "person" and n.gender is Gender.NEUTER for n in nouns)
    if one == two or is_loose:
        return None
    place = _place(c, *nouns)
    return (
        _swap(nouns[0].forms[Case.NOM, number], (one, two), place),
        _swap(nouns[1].forms[Case.NOM, number], (two, one), place),
    )


PHENOMENA: dict[str, Maker] = {
    "preposition_case": _preposition_case,
    "verb_case": _verb_case,
    "genitive_of_negation": _genitive_of_negation,
    "adjective_gender": _adjective_gender,
    "adjective_number": _adjective_number,
    "adjective_case": _adjective_case,
    "subject_verb_number": _subject_verb_number,
    "past_gender": _past_gender,
}
