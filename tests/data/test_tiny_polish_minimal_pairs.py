"""Every good sentence is grammatical and every bad one is not, by a recogniser written apart.

The recogniser knows the paradigms and the rules of agreement and government, takes constituents
in any order, lets subjects drop, and tries every reading of every form.
"""

from collections import Counter
from functools import cache
from itertools import batched

import pytest

from nemo_bielik.data.tiny_polish import World, WorldConfig, minimal_pairs, narration
from nemo_bielik.data.tiny_polish.grammar import PAST, PRESENT, Composer
from nemo_bielik.data.tiny_polish.inflection import Case, Gender, Number
from nemo_bielik.data.tiny_polish.lexicon import Verb, load_lexicon
from nemo_bielik.data.tiny_polish.minimal_pairs import MinimalPair
from nemo_bielik.data.tiny_polish.phenomena import PHENOMENA
from nemo_bielik.errors import ConfigError

Readings = set[tuple[Case, Number, Gender]]
VerbReading = tuple[Verb, Number, frozenset[Gender]]


@cache
def noun_readings() -> dict[str, Readings]:
    found: dict[str, Readings] = {}
    for noun in load_lexicon().nouns:
        for (case, number), form in noun.forms.items():
            found.setdefault(form, set()).add((case, number, noun.gender))
    return found


@cache
def adjective_readings() -> dict[str, Readings]:
    found: dict[str, Readings] = {}
    for adjective in load_lexicon().adjectives:
        for reading, form in adjective.forms.items():
            found.setdefault(form, set()).add(reading)
    return found


@cache
def verb_readings() -> dict[str, list[VerbReading]]:
    found: dict[str, list[VerbReading]] = {}
    for verb in load_lexicon().all_verbs:
        for number in Number:
            reading = (verb, number, frozenset(Gender))
            found.setdefault(verb.present[3, number], []).append(reading)
            for gender in Gender:
                past = (verb, number, frozenset({gender}))
                found.setdefault(verb.past[3, number, gender], []).append(past)
    return found


@cache
def preposition_cases() -> dict[str, frozenset[Case]]:
    lexicon = load_lexicon()
    found = {p.word: p.possible for p in lexicon.prepositions} | {"dla": frozenset({Case.GEN})}
    for verb in lexicon.prepositional_verbs:
        assert verb.governs is not None
        found[verb.preposition] = found.get(verb.preposition, frozenset()) | {verb.governs}
    return found | {"ze": found["z"], "we": found["w"]}


def noun_phrase(words: list[str]) -> Readings:
    """Consume adjectives and a noun; the readings that fit all of them."""
    readings = {(case, number, gender) for case in Case for number in Number for gender in Gender}
    while words and words[0] in adjective_readings():
        readings &= adjective_readings()[words.pop(0)]
    return readings & noun_readings()[words.pop(0)]


def is_grammatical(sentence: str) -> bool:
    text = sentence.rstrip(".")
    words = (text[0].lower() + text[1:]).split()
    phrases: list[tuple[Readings, bool]] = []  # readings, stands right behind another noun phrase
    verbs: list[VerbReading] = []
    negated, reflexive, behind = False, False, False
    while words:
        word = words[0]
        if word in preposition_cases():
            words.pop(0)
            if not any(case in preposition_cases()[word] for case, _, _ in noun_phrase(words)):
                return False
            behind = True
        elif word in verb_readings():
            assert not verbs, "one verb a sentence"
            verbs, behind = verb_readings()[words.pop(0)], False
        elif word in ("nie", "się"):
            negated, reflexive = negated or word == "nie", reflexive or word == "się"
            behind = False
            words.pop(0)
        else:
            phrases.append((noun_phrase(words), behind))
            behind = True
    return any(v[0].reflexive is reflexive and fits(phrases, v, negated, set()) for v in verbs)


def fits(
    phrases: list[tuple[Readings, bool]], verb: VerbReading, negated: bool, taken: set[str]
) -> bool:
    """Try to give every bare noun phrase a role; subject and object occur once at most."""
    if not phrases:
        return True
    (readings, behind), rest = phrases[0], phrases[1:]
    lemma, number, genders = verb
    object_case = lemma.governs if not lemma.preposition else None
    if negated and object_case is Case.ACC:
        object_case = Case.GEN
    roles = {"owner"} if behind and any(case is Case.GEN for case, _, _ in readings) else set()
    for case, count, gender in readings:
        if case is Case.NOM and count is number and gender in genders:
            roles.add("subject")
        if case is object_case:
            roles.add("object")
        if case in lemma.tolerates:
            roles.add("adjunct")
    once = {"subject", "object", "adjunct"}
    return any(fits(rest, verb, negated, taken | ({role} & once)) for role in roles - taken)


@pytest.fixture(scope="module")
def world() -> World:
    return World(WorldConfig(pairs_per_phenomenon=60))


@pytest.fixture(scope="module")
def pairs(world: World) -> list[MinimalPair]:
    return world.minimal_pairs()


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Kot śpi obok domu.", True),
        ("Kot śpią obok domu.", False),
        ("Kot śpi obok domem.", False),
        ("Kobieta nie czyta książki.", True),
        ("Kobieta nie czyta książkę.", False),
        ("Kobieta czyta książki.", True),  # many books
        ("Książkę czyta stara kobieta.", True),
        ("Książkę czyta starą kobieta.", False),
        ("Kot sąsiada szuka myszy.", True),
        ("Kot sąsiada szuka mysz.", False),
        ("Chłopcy interesowali się kotem.", True),
        ("Chłopcy interesowały się kotem.", False),
        ("Chłopcy interesowali kotem.", False),
    ],
)
def test_the_recogniser_itself(sentence: str, expected: bool) -> None:
    assert is_grammatical(sentence) is expected


def test_good_is_grammatical_and_bad_is_not(pairs: list[MinimalPair]) -> None:
    for pair in pairs:
        assert is_grammatical(pair.good), pair
        assert not is_grammatical(pair.bad), pair


def test_generated_clauses_are_grammatical() -> None:
    composer = Composer(load_lexicon(), "clauses")
    for tense in (PRESENT, PAST):
        for _ in range(1_500):
            for clause in (
                narration.transitive(composer, tense, with_time=False),
                narration.plain(composer, tense, with_time=False),
                narration.giving(composer, tense),
            ):
                assert is_grammatical(clause), clause


def test_pairs_differ_in_one_word(pairs: list[MinimalPair]) -> None:
    for pair in pairs:
        good, bad = pair.good.split(), pair.bad.split()
        assert sum(left != right for left, right in zip(good, bad, strict=True)) == 1


def test_twins_swap_the_right_and_the_wrong_form(pairs: list[MinimalPair]) -> None:
    for first, second in batched(pairs, 2):
        assert first.phenomenon == second.phenomenon
        assert changed(first) == changed(second)[::-1]


def changed(pair: MinimalPair) -> tuple[str, str]:
    words = zip(pair.good.split(), pair.bad.split(), strict=True)
    right, wrong = next((right, wrong) for right, wrong in words if right != wrong)
    return right.rstrip("."), wrong.rstrip(".")


def test_numbers_and_distinctness(pairs: list[MinimalPair]) -> None:
    assert Counter(pair.phenomenon for pair in pairs) == dict.fromkeys(PHENOMENA, 60)
    assert len({(pair.good, pair.bad) for pair in pairs}) == len(pairs)


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minimal_pairs, "_TRIES_PER_PAIR", 5)
    config = WorldConfig(pairs_per_phenomenon=1_000, held_out_share=0.01)
    with pytest.raises(ConfigError, match="held_out_share"):
        World(config).minimal_pairs()
