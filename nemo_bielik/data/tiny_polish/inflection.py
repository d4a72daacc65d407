"""Polish inflection: from a few principal parts to every form of a noun, adjective or verb.

The principal parts carry what a rule cannot give (consonant alternations, vanishing vowels); the
endings below are the regular remainder. Forms are plain dictionaries, so that generation is a
look-up; nothing is inflected twice.
"""

from collections.abc import Mapping
from enum import StrEnum


class Case(StrEnum):
    """The seven cases."""

    NOM = "nom"
    GEN = "gen"
    DAT = "dat"
    ACC = "acc"
    INS = "ins"
    LOC = "loc"
    VOC = "voc"


class Number(StrEnum):
    """The two numbers."""

    SG = "sg"
    PL = "pl"


class Gender(StrEnum):
    """The five genders that agreement tells apart."""

    PERSONAL = "m1"
    ANIMATE = "m2"
    INANIMATE = "m3"
    FEMININE = "f"
    NEUTER = "n"


MASCULINE = (Gender.PERSONAL, Gender.ANIMATE, Gender.INANIMATE)
NounForms = Mapping[tuple[Case, Number], str]
AdjectiveForms = Mapping[tuple[Case, Number, Gender], str]
PresentForms = Mapping[tuple[int, Number], str]
PastForms = Mapping[tuple[int, Number, Gender], str]


def _velar(stem: str) -> bool:
    return stem[-1] in "kg"


def _plural(stem: str, nominative: str, genitive: str, accusative: str) -> dict[Case, str]:
    return {
        Case.NOM: nominative,
        Case.GEN: genitive,
        Case.DAT: stem + "om",
        Case.ACC: accusative,
        Case.INS: stem + "ami",
        Case.LOC: stem + "ach",
        Case.VOC: nominative,
    }


def _join(
    singular: Mapping[Case, str], plural: Mapping[Case, str]
) -> dict[tuple[Case, Number], str]:
    forms = {(case, Number.SG): form for case, form in singular.items()}
    return forms | {(case, Number.PL): form for case, form in plural.items()}


def decline_masculine(
    gender: Gender, nominative: str, genitive: str, locative: str, plural: str, genitive_plural: str
) -> dict[tuple[Case, Number], str]:
    """Decline a masculine noun that ends in a consonant, e.g. kot, kota, kocie, koty, kotów."""
    stem = genitive[:-1]
    singular = {
        Case.NOM: nominative,
        Case.GEN: genitive,
        Case.DAT: stem + "owi",
        Case.ACC: nominative if gender is Gender.INANIMATE else genitive,
        Case.INS: stem + ("iem" if _velar(stem) else "em"),
        Case.LOC: locative,
        Case.VOC: locative,
    }
    accusative = genitive_plural if gender is Gender.PERSONAL else plural
    return _join(singular, _plural(stem, plural, genitive_plural, accusative))


def decline_feminine(
    nominative: str, genitive: str, locative: str, plural: str, genitive_plural: str
) -> dict[tuple[Case, Number], str]:
    """Decline a feminine noun in -a, e.g. książka, książki, książce, książki, książek."""
    stem = nominative[:-1]
    singular = {
        Case.NOM: nominative,
        Case.GEN: genitive,
        Case.DAT: locative,
        Case.ACC: stem + "ę",
        Case.INS: stem + "ą",
        Case.LOC: locative,
        Case.VOC: stem + "o",
    }
    return _join(singular, _plural(stem, plural, genitive_plural, plural))


def decline_feminine_consonant(
    nominative: str, genitive: str, instrumental: str, plural: str, genitive_plural: str
) -> dict[tuple[Case, Number], str]:
    """Decline a feminine noun in a consonant, e.g. mysz, myszy, myszą, myszy, myszy."""
    singular = {
        Case.NOM: nominative,
        Case.GEN: genitive,
        Case.DAT: genitive,
        Case.ACC: nominative,
        Case.INS: instrumental,
        Case.LOC: genitive,
        Case.VOC: genitive,
    }
    return _join(singular, _plural(instrumental[:-1], plural, genitive_plural, plural))


def decline_neuter(
    nominative: str, genitive: str, locative: str, genitive_plural: str
) -> dict[tuple[Case, Number], str]:
    """Decline a neuter noun in -o or -e, e.g. okno, okna, oknie, okien."""
    stem = genitive[:-1]
    singular = {
        Case.NOM: nominative,
        Case.GEN: genitive,
        Case.DAT: stem + "u",
        Case.ACC: nominative,
        Case.INS: stem + ("iem" if _velar(stem) else "em"),
        Case.LOC: locative,
        Case.VOC: nominative,
    }
    return _join(singular, _plural(stem, stem + "a", genitive_plural, stem + "a"))


def decline_young(nominative: str) -> dict[tuple[Case, Number], str]:
    """Decline a neuter noun in -ę that names a young one, e.g. kocię, kocięcia, kocięta."""
    stem = nominative[:-1]
    singular = {
        Case.NOM: nominative,
        Case.GEN: stem + "ęcia",
        Case.DAT: stem + "ęciu",
        Case.ACC: nominative,
        Case.INS: stem + "ęciem",
        Case.LOC: stem + "ęciu",
        Case.VOC: nominative,
    }
    return _join(singular, _plural(stem + "ęt", stem + "ęta", stem + "ąt", stem + "ęta"))


def decline_adjective(nominative: str, personal_plural: str) -> AdjectiveForms:
    """Decline an adjective, e.g. dobry, dobrzy; `personal_plural` is the masculine-personal one."""
    velar, soft = nominative[-2] in "kg", nominative[-1] == "i"
    stem = nominative[:-1]
    vowel = stem + nominative[-1]  # nowy-, wysoki-, tani-: what -m, -ch and -mi are added to
    front = stem + ("i" if soft else "")  # what -e, -ego, -emu and -ej are added to
    back = stem + ("i" if soft and not velar else "")  # what -a and -ą are added to
    forms: dict[tuple[Case, Number, Gender], str] = {}
    for gender in Gender:
        singular = _adjective_singular(gender, nominative, vowel, front, back)
        plural = _adjective_plural(gender, personal_plural, vowel, front)
        forms |= {(case, Number.SG, gender): form for case, form in singular.items()}
        forms |= {(case, Number.PL, gender): form for case, form in plural.items()}
    return forms


def _adjective_singular(
    gender: Gender, nominative: str, vowel: str, front: str, back: str
) -> dict[Case, str]:
    if gender is Gender.FEMININE:
        cases = dict.fromkeys((Case.GEN, Case.DAT, Case.LOC), front + "ej")
        cases |= dict.fromkeys((Case.ACC, Case.INS), back + "ą")
        return cases | dict.fromkeys((Case.NOM, Case.VOC), back + "a")
    subject = front + "e" if gender is Gender.NEUTER else nominative
    animate = gender in (Gender.PERSONAL, Gender.ANIMATE)
    return {
        Case.NOM: subject,
        Case.GEN: front + "ego",
        Case.DAT: front + "emu",
        Case.ACC: front + "ego" if animate else subject,
        Case.INS: vowel + "m",
        Case.LOC: vowel + "m",
        Case.VOC: subject,
    }


def _adjective_plural(gender: Gender, personal: str, vowel: str, front: str) -> dict[Case, str]:
    is_personal = gender is Gender.PERSONAL
    subject = personal if is_personal else front + "e"
    return {
        Case.NOM: subject,
        Case.GEN: vowel + "ch",
        Case.DAT: vowel + "m",
        Case.ACC: vowel + "ch" if is_personal else subject,
        Case.INS: vowel + "mi",
        Case.LOC: vowel + "ch",
        Case.VOC: subject,
    }


def conjugate_present(first: str, third: str, third_plural: str) -> PresentForms:
    """Conjugate in the present, e.g. czytam, czyta, czytają; keys are (person, number)."""
    return {
        (1, Number.SG): first,
        (2, Number.SG): third + "sz",
        (3, Number.SG): third,
        (1, Number.PL): third + "my",
        (2, Number.PL): third + "cie",
        (3, Number.PL): third_plural,
    }


def conjugate_past(infinitive: str) -> PastForms:
    """Conjugate in the past a verb in -ać, -ić, -yć or -eć; keys are (person, number, gender).

    The neuter has the third person only.
    """
    theme = infinitive[:-1]
    singular = theme[:-1] + "a" if theme.endswith("e") else theme  # widzieć: widział, widzieli
    forms: dict[tuple[int, Number, Gender], str] = {(3, Number.SG, Gender.NEUTER): singular + "ło"}
    for gender in Gender:
        plural = theme + "li" if gender is Gender.PERSONAL else singular + "ły"
        for person, ending in ((1, "śmy"), (2, "ście"), (3, "")):
            forms[person, Number.PL, gender] = plural + ending
    for person, masculine, feminine in ((1, "em", "m"), (2, "eś", "ś"), (3, "", "")):
        forms[person, Number.SG, Gender.FEMININE] = singular + "ła" + feminine
        for gender in MASCULINE:
            forms[person, Number.SG, gender] = singular + "ł" + masculine
    return forms
