"""Official prose: what offices do with papers, in the active, the passive and the impersonal."""

from collections.abc import Callable

from nemo_bielik.data.tiny_polish.grammar import PAST, PRESENT, Composer, before, finish, to_be
from nemo_bielik.data.tiny_polish.inflection import MASCULINE, Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Noun
from nemo_bielik.data.tiny_polish.narration import says_of, tense_of

_PAPERS = frozenset({"document"})
_OFFICES = frozenset({"building"})
_PAPER_FRAMES = (
    ("zgodnie z", Case.INS),
    ("w związku z", Case.INS),
    ("na podstawie", Case.GEN),
    ("w sprawie", Case.GEN),
    ("wbrew", Case.DAT),
    ("dzięki", Case.DAT),
)


def _clerk(c: Composer) -> Noun:
    return c.pick(c.lexicon.official_people)


def _office_acts(c: Composer, tense: str) -> str:
    verb, noun, number = c.verb(c.lexicon.official_verbs), _clerk(c), c.number()
    negated = c.chance(0.25)
    says = says_of(c, verb, tense, number, noun, negated)
    text = f"{c.phrase(noun, Case.NOM, number, 0.2)} {says} {c.object(verb, negated)}"
    if c.chance(0.3):
        office = c.phrase(c.noun(_OFFICES), Case.LOC, c.number(), 0.3)
        text = f"{text} {before('w', office)}"
    return text


def _passive(c: Composer, tense: str) -> str:
    noun, number = c.noun(_PAPERS), c.number()
    subject = c.phrase(noun, Case.NOM, number)
    participle = c.participle(noun, number)
    is_present = tense == PRESENT
    verb = to_be(tense, number, noun.gender) if is_present else _became(number, noun.gender)
    by_whom = c.phrase(_clerk(c), Case.ACC, c.number(), 0.2)
    return f"{subject} {verb} {participle} przez {by_whom}"


def _became(number: Number, gender: Gender) -> str:
    if number is Number.PL:
        return "zostali" if gender is Gender.PERSONAL else "zostały"
    return "został" + ("" if gender in MASCULINE else "o" if gender is Gender.NEUTER else "a")


def _by_the_paper(c: Composer, tense: str) -> str:
    start, case = c.pick(_PAPER_FRAMES)
    noun, number = c.noun(_PAPERS), c.number()
    phrase = c.phrase(noun, case, number)
    head, _, last = start.rpartition(" ")
    opening = f"{head} {before(last, phrase)}" if head else f"{start} {phrase}"
    return f"{opening} {_office_acts(c, tense)}"


def _duty(c: Composer, tense: str) -> str:
    verb = c.verb(c.lexicon.official_verbs)
    negated = c.chance(0.3)
    must = "należało" if tense == PAST else "należy"
    text = f"{'nie ' if negated else ''}{must} {verb.infinitive} {c.object(verb, negated)}"
    return f"{text} przed {c.phrase(c.noun(_PAPERS), Case.INS, c.number(), 0.3)}"


def _hand_over(c: Composer, tense: str) -> str:
    giver, receiver = _clerk(c), _clerk(c)
    while receiver is giver:
        receiver = _clerk(c)
    verb, number = c.verb(c.lexicon.giving_verbs[:1]), c.number()
    says = c.third_person(verb, tense, number, giver.gender)
    to_whom = c.phrase(receiver, Case.DAT, c.number(), 0.2)
    paper = c.phrase(c.noun(_PAPERS), Case.ACC, c.number(), 0.6)
    return f"{c.phrase(giver, Case.NOM, number, 0.2)} {says} {to_whom} {paper}"


_OFFICIAL: tuple[Callable[[Composer, str], str], ...] = (
    *(_office_acts, _office_acts, _passive, _passive),
    *(_by_the_paper, _duty, _hand_over),
)


def official(c: Composer) -> str:
    """One sentence of an office."""
    return finish(c.pick(_OFFICIAL)(c, tense_of(c)))
