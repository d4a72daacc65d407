"""Dialogue: a question in the first or second person, and answers that fit it."""

from collections.abc import Callable

from nemo_bielik.data.tiny_polish.grammar import PRESENT, Composer, before, finish
from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Noun, Verb
from nemo_bielik.data.tiny_polish.narration import tense_of, time_of

Answer = Callable[[], str]
_PEOPLE = frozenset({"person"})
_LANDMARKS = frozenset({"person", "animal", "thing", "building", "garden", "open"})
_SPEAKERS = (Gender.PERSONAL, Gender.FEMININE)
_MODALS = {
    (1, Number.SG): ("chcę", "muszę", "mogę", "umiem"),
    (2, Number.SG): ("chcesz", "musisz", "możesz", "umiesz"),
    (1, Number.PL): ("chcemy", "musimy", "możemy", "umiemy"),
    (2, Number.PL): ("chcecie", "musicie", "możecie", "umiecie"),
}
# What one feels or has rather than does: odd after *chcę* or *muszę*.
_STATES = frozenset({"lubić", "znać", "widzieć", "kochać", "szanować", "bać", "potrzebować"})


def question(c: Composer) -> tuple[str, Answer]:
    """A question and a maker of answers to it; each answer made is another draw."""
    return c.pick((_ask_whether, _ask_who, _ask_where, _ask_modal))(c)


def _ask_whether(c: Composer) -> tuple[str, Answer]:
    verb = c.verb(c.lexicon.verbs if c.chance(0.7) else c.lexicon.prepositional_verbs, "person")
    tense, number, gender = tense_of(c), c.number(), c.pick(_SPEAKERS)
    noun, many = c.noun(verb.objects), c.number()
    asked = _spoken(verb, tense, 2, number, gender, False)
    text = f"czy {asked} {_object_of(c, verb, noun, many, False)}"
    if c.chance(0.3):
        text = f"{_call(c, number, gender)}, {text}"

    def answer() -> str:
        negated = c.chance(0.5)
        form = _spoken(verb, tense, 1, number, gender, negated)
        c.verb((verb,))
        what = _object_of(c, verb, noun, many, negated)
        return f"{'nie' if negated else 'tak'}, {time_of(c, tense, True)} {form} {what}"

    return finish(text, "?"), answer


def _object_of(c: Composer, verb: Verb, noun: Noun, number: Number, negated: bool) -> str:
    phrase = c.phrase(noun, c.object_case(verb, negated), number)
    return before(verb.preposition, phrase) if verb.preposition else phrase


def _ask_who(c: Composer) -> tuple[str, Answer]:
    verb = c.verb(c.lexicon.verbs, "person")
    tense = tense_of(c)
    noun, number = c.noun(verb.objects), c.number()
    # kto takes the masculine singular, whoever is meant
    asked = c.third_person(verb, tense, Number.SG, Gender.PERSONAL)
    text = f"kto {asked} {_object_of(c, verb, noun, number, False)}"

    def answer() -> str:
        who, count = c.noun(_PEOPLE), c.number()
        c.verb((verb,))
        form = c.third_person(verb, tense, count, who.gender)
        what = _object_of(c, verb, noun, number, False)
        return f"{c.phrase(who, Case.NOM, count)} {form} {what}"

    return finish(text, "?"), answer


def _ask_where(c: Composer) -> tuple[str, Answer]:
    verb = c.verb(c.lexicon.plain_verbs)
    tense = tense_of(c)
    noun, number = c.noun(verb.subjects), c.number()
    form = c.third_person(verb, tense, number, noun.gender)
    text = f"gdzie {form} {c.phrase(noun, Case.NOM, number)}"

    def answer() -> str:
        c.verb((verb,))
        subject = c.phrase(noun, Case.NOM, number, 0.3)
        where = c.pick(("obok", "koło", "blisko"))
        beside = c.noun(_LANDMARKS)
        while beside is noun:
            beside = c.noun(_LANDMARKS)
        return f"{subject} {form} {where} {c.phrase(beside, Case.GEN, c.number())}"

    return finish(text, "?"), answer


def _ask_modal(c: Composer) -> tuple[str, Answer]:
    verb = _deed(c)
    number = c.number()
    modal = int(c.chance(0.5)) + 2 * int(c.chance(0.5))
    noun, many = c.noun(verb.objects), c.number()
    asked = f"{_MODALS[2, number][modal]} {verb.infinitive}"
    text = f"czy {asked} {_object_of(c, verb, noun, many, False)}"

    def answer() -> str:
        c.verb((verb,))
        negated = c.chance(0.4)
        can = _MODALS[1, number][modal]
        start = f"nie, nie {can}" if negated else f"tak, {can}"
        what = _object_of(c, verb, noun, many, negated)
        return f"{start} {verb.infinitive} {what}"

    return finish(text, "?"), answer


def _spoken(
    verb: Verb, tense: str, person: int, number: Number, gender: Gender, negated: bool
) -> str:
    form = verb.present[person, number] if tense == PRESENT else verb.past[person, number, gender]
    form = f"nie {form}" if negated else form
    return f"{form} się" if verb.reflexive else form


def _deed(c: Composer) -> Verb:
    deeds = [verb for verb in c.lexicon.verbs if verb.lemma not in _STATES]
    return c.verb(deeds, "person")


def _call(c: Composer, number: Number, gender: Gender) -> str:
    whom = c.noun(_PEOPLE)
    while whom.gender is not gender:
        whom = c.noun(_PEOPLE)
    return c.phrase(whom, Case.VOC, number, adjectives=0.0)
