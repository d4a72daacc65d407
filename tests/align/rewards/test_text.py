"""Rewards of plain text and of inflection: what counts as the same answer, and bad tasks."""

from typing import Any

import pytest

from nemo_bielik.align.rewards.catalog import REWARDS, known_rewards
from nemo_bielik.data.tiny_polish.lexicon import load_lexicon
from nemo_bielik.errors import ConfigError


def test_exact_is_sign_by_sign() -> None:
    exact = REWARDS["exact"].function
    assert exact("Ala ma kota.", {"answer": "Ala ma kota."}) == 1
    assert exact("ala ma kota.", {"answer": "Ala ma kota."}) == 0
    assert exact("Ala ma kota", {"answer": ["Ala ma kota.", "Ala ma kota"]}) == 1
    assert exact("z\u0307ar", {"answer": "żar"}) == 1  # the same signs, otherwise composed


def test_normalized_forgives_case_quotes_and_a_full_stop() -> None:
    normalized = REWARDS["normalized"].function
    for text in ("w krakowie", "W Krakowie.", "„W  Krakowie”.", "“w Krakowie.”"):
        assert normalized(text, {"answer": "w Krakowie"}) == 1, text
    for text in ("Kraków", "w Krakowie, w Łodzi", "nie w Krakowie", "w  K r a k o w i e"):
        assert normalized(text, {"answer": "w Krakowie"}) == 0, text


def test_choice_takes_the_letter_alone_or_with_its_own_text() -> None:
    choice = REWARDS["choice"].function
    task = {"answer": "B", "choices": ["król", "kupiec", "rybak"]}
    for text in ("B", "B.", "B)", "(B)", "B) kupiec", "B. Kupiec.", "B: kupiec"):
        assert choice(text, task) == 1, text
    for text in ("b", "kupiec", "A", "AB", "B A", "B) rybak", "B kupiec", "Odpowiedź B", "BB"):
        assert choice(text, task) == 0, text


def test_a_form_must_be_the_whole_of_the_text() -> None:
    form = REWARDS["format"].function
    REWARDS["format"].check({"pattern": r"(?P<a>\d)(?<=1)(?<!2) (?P=a)"})  # no tags
    task = {"pattern": r"\{\"wynik\": \d+\}"}
    assert form('{"wynik": 8}', task) == 1
    assert form('Proszę: {"wynik": 8}', task) == 0
    assert form('{"wynik": 8} {"wynik": 8}', task) == 0


@pytest.mark.parametrize(
    ("lemma", "case", "number", "form"),
    [
        ("pies", "gen", "sg", "psa"),
        ("koń", "ins", "pl", "końmi"),
        ("ręka", "", "", ""),
        ("książka", "dat", "sg", "książce"),
        ("zwierzę", "gen", "pl", "zwierząt"),
    ],
)
def test_forms_of_nouns(lemma: str, case: str, number: str, form: str) -> None:
    inflection = REWARDS["inflection"]
    task = {"lemma": lemma, "case": case, "number": number}
    if not form:
        with pytest.raises(ValueError, match='"case" is'):
            inflection.check(task)
        return
    inflection.check(task)
    assert inflection.function(form, task) == 1
    assert inflection.function(f"{form.capitalize()}.", task) == 1
    for other in (lemma, f"{form} {lemma}", f"{form}, czyli {form}", f"to {form}", form + form):
        assert inflection.function(other, task) == 0, other


def test_no_two_nouns_share_a_lemma() -> None:
    lemmas = [noun.lemma for noun in load_lexicon().nouns]
    assert len(lemmas) == len(set(lemmas))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"reward": "exact"}, '"answer" must be'),
        ({"reward": "exact", "answer": 7}, '"answer" must be'),
        ({"reward": "normalized", "answer": []}, '"answer" must be'),
        ({"reward": "math", "answer": None}, '"answer" must be a number'),
        (
            {"reward": "choice", "answer": "D", "choices": ["a", "b", "c"]},
            "the choices are A, B, C",
        ),
        ({"reward": "choice", "answer": "A", "choices": ["a"]}, "two or more"),
        ({"reward": "choice", "answer": "A"}, '"choices" must be a list'),
        ({"reward": "format", "pattern": "("}, '"pattern" must be a regular expression'),
        ({"reward": "format"}, '"pattern" must be a regular expression'),
        ({"reward": "format", "pattern": "<think>.*</think>.*"}, "asks for '<think>'; tags earn"),
        ({"reward": "inflection", "lemma": "kod", "case": "gen", "number": "sg"}, "did you mean"),
    ],
)
def test_a_task_that_lacks_what_it_needs_is_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REWARDS[task["reward"]].check(task)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.at_all:reward", "cannot be imported"),
        ("json:nothing", "cannot be imported"),
        ("json", "cannot be imported"),
        ("some.module:exact", "already"),
    ],
)
def test_a_reward_of_ones_own_that_cannot_be_used_is_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        known_rewards([path])
