"""Exercises whose answers can be checked: inflection, small arithmetic, and who is the eldest.

Each has a key; exercises that would give one another away (7 + 5 and 5 + 7, two forms of one noun)
share theirs, and a key belongs to one split.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.data.tiny_polish.grammar import Composer, finish
from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Lexicon, Noun

CASES = {
    Case.NOM: "mianownik",
    Case.GEN: "dopełniacz",
    Case.DAT: "celownik",
    Case.ACC: "biernik",
    Case.INS: "narzędnik",
    Case.LOC: "miejscownik",
    Case.VOC: "wołacz",
}
NUMBERS = {Number.SG: "pojedynczej", Number.PL: "mnogiej"}
LARGEST_ADDEND, LARGEST_FACTOR = 20, 10
LETTERS = "ABC"
#: masculine and feminine comparative, superlative of the most, superlative of the least
_COMPARISONS = (
    ("starszy", "starsza", "najstarszy", "najmłodszy"),
    ("młodszy", "młodsza", "najmłodszy", "najstarszy"),
    ("wyższy", "wyższa", "najwyższy", "najniższy"),
    ("niższy", "niższa", "najniższy", "najwyższy"),
)


@dataclass(frozen=True)
class Exercise:
    """A question and its answer; `wrong` is a wrong one, `fields` are what a reward needs."""

    kind: str
    key: str
    prompt: str
    answer: str
    wrong: str = ""
    reward: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def inflections(lexicon: Lexicon) -> Iterator[Exercise]:
    """Every form of every noun but the nominative singular, which the question gives."""
    for noun in lexicon.nouns:
        for case, number in itertools.product(Case, Number):
            if (case, number) != (Case.NOM, Number.SG):
                yield _inflection(noun, case, number)


def _inflection(noun: Noun, case: Case, number: Number) -> Exercise:
    right = noun.forms[case, number]
    others = sorted({form for form in noun.forms.values() if form != right})
    return Exercise(
        "inflection",
        noun.lemma,
        f"Podaj {CASES[case]} liczby {NUMBERS[number]} wyrazu „{noun.lemma}”.",
        right,
        others[(list(Case).index(case) + list(Number).index(number)) % len(others)],
        "inflection",
        {"lemma": noun.lemma, "case": str(case), "number": str(number)},
    )


def sums() -> Iterator[Exercise]:
    """Every sum and difference of numbers up to 20, every product of those up to 10."""
    for a, b in itertools.product(range(LARGEST_ADDEND + 1), repeat=2):
        yield _sum(a, "+", b, a + b)
        if a >= b:
            yield _sum(a, "-", b, a - b)
    for a, b in itertools.product(range(LARGEST_FACTOR + 1), repeat=2):
        yield _sum(a, "·", b, a * b)


def _sum(a: int, sign: str, b: int, result: int) -> Exercise:
    first, second = (a, b) if sign == "-" else sorted((a, b))
    prompt = f"Ile to jest {a} {sign} {b}?"
    return Exercise(
        "arithmetic", f"{first} {sign} {second}", prompt, str(result), str(result + 1), "math"
    )


def riddles(c: Composer, count: int) -> list[Exercise]:
    """`count` different riddles on three people in a row: who is at one end of it?"""
    people = [
        noun
        for noun in c.lexicon.nouns
        if noun.kind == "person" and noun.gender is not Gender.NEUTER
    ]
    found: dict[str, Exercise] = {}
    while len(found) < count:
        riddle = _riddle(c, people)
        if riddle is not None:
            found[riddle.prompt] = riddle
    return list(found.values())


def _riddle(c: Composer, people: list[Noun]) -> Exercise | None:
    row = [c.pick(people) for _ in range(3)]
    if len({noun.lemma for noun in row}) < 3:
        return None
    comparison = c.pick(_COMPARISONS)
    said = [_compared(row[0], row[1], comparison), _compared(row[1], row[2], comparison)]
    asks_first = c.chance(0.5)
    asked = comparison[2] if asks_first else comparison[3]
    names = [noun.lemma for noun in row]
    listed = sorted(names, key=lambda _: c.random())
    letter = LETTERS[listed.index(names[0 if asks_first else 2])]
    choices = " ".join(f"{sign}) {name}" for sign, name in zip(LETTERS, listed, strict=True))
    statements = " ".join(said if c.chance(0.5) else reversed(said))
    return Exercise(
        "logic",
        " ".join(sorted(names)),
        f"{statements} Kto jest {asked}? {choices}. Odpowiedz literą.",
        letter,
        LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)],
        "choice",
        {"choices": listed},
    )


def _compared(more: Noun, less: Noun, comparison: tuple[str, ...]) -> str:
    word = comparison[1 if more.gender is Gender.FEMININE else 0]
    return finish(f"{more.lemma} jest {word} od {less.forms[Case.GEN, Number.SG]}")
