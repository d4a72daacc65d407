"""Minimal pairs and facts against brute force, ties and arithmetic by hand, and bad lines."""

import random

import pytest
import torch

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.data.tokenizer import TextTokenizer, load_tokenizer
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.choices import (
    Choice,
    ChoiceScore,
    accuracy,
    by_group,
    chance,
    read_facts,
    read_minimal_pairs,
    score_choices,
)
from nemo_bielik.evaluate.language_model import LanguageModel

SENTENCE = "ala ma kota psa dom las rzeka zażółć gęślą jaźń mały duży stary dobry widzi lubi"
WORDS = SENTENCE.split()
PAIR = {"phenomenon": "zgoda", "good": "mały dom", "bad": "mała dom"}
FACT = {"relation": "stolica", "prompt": "To ", "answer": "A", "candidates": ["B", "A"]}


def score(group, log_probs, right=0):
    labels = tuple(f"{n}" for n in range(len(log_probs)))
    return ChoiceScore(Choice("here", group, labels, labels, right), tuple(log_probs))


@pytest.fixture(scope="module")
def sentences():
    rng = random.Random(1)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 8))) + "." for _ in range(60)]


@pytest.fixture
def brute_force(judged_model, logits):
    """log P(sentence | <s>) from plain transformers, one sentence at a time."""
    tokenizer = load_tokenizer(judged_model)

    def run(sentence):
        ids = tokenizer(sentence)["input_ids"]
        found = logits(judged_model, torch.tensor([ids])).log_softmax(-1)[0]
        return sum(found[place, token].item() for place, token in enumerate(ids[1:]))

    return run


def scored(directory, choices, tokens_per_batch):
    model = LanguageModel.open(Checkpoint.open(directory), tokens_per_batch)
    return score_choices(model, TextTokenizer.open(directory), choices, max_tokens=64)


@pytest.mark.parametrize("tokens_per_batch", [1, 64, 64 * 64])
def test_pairs_agree_with_brute_force(
    judged_model, sentences, brute_force, write_lines, tokens_per_batch
):
    pairs = zip(sentences[:30], sentences[30:], strict=True)
    path = write_lines("a.jsonl", *({**PAIR, "good": good, "bad": bad} for good, bad in pairs))
    found = scored(judged_model, read_minimal_pairs(path), tokens_per_batch)
    for item in found:
        expected = [brute_force(sentence) for sentence in item.choice.sentences]
        assert item.log_probs == pytest.approx(expected, abs=1e-3, rel=1e-5)
        assert item.score == float(expected[0] > expected[1])
    assert 0 < accuracy(found) < 1


def test_facts_agree_with_brute_force(judged_model, sentences, brute_force, write_lines):
    rng = random.Random(2)
    facts = []
    for sentence in sentences:
        candidates = rng.sample(WORDS, k=4)
        answer = rng.choice(candidates)
        fact = {"prompt": sentence + " ", "answer": answer, "candidates": candidates}
        facts.append({"relation": "r", **fact, "suffix": " koniec"})
    found = scored(judged_model, read_facts(write_lines("a.jsonl", *facts)), 500)
    for fact, item in zip(facts, found, strict=True):
        whole = {c: brute_force(f"{fact['prompt']}{c} koniec") for c in fact["candidates"]}
        assert item.score == float(max(whole, key=whole.__getitem__) == fact["answer"])
    assert 0 < accuracy(found) < 1


def test_a_model_without_opinion_is_at_chance(judged_model, make_model, edit_weights):
    directory = make_model(vocab_size=320, seed=3)
    copy_tokenizer(judged_model, directory)
    with edit_weights(directory) as weights:
        weights["lm_head.weight"].zero_()
    # letters that no merge knows: three tokens each, hence equally likely
    sentences = ("qxv", "vqx", "xqvq")
    choices = [Choice("here", "g", sentences, ("a", "b", "c"), right=n) for n in range(3)]
    assert [item.score for item in scored(directory, choices, 64)] == [0.5, 0.5, 0.0]


def test_ties_share():
    assert score("g", [-1.0, -2.0]).score == 1.0
    assert score("g", [-2.0, -1.0]).score == 0.0
    assert score("g", [-1.0, -1.0]).score == 0.5
    assert score("g", [-1.0, -1.0, -1.0, -3.0], right=2).score == pytest.approx(1 / 3)
    assert score("g", [-1.0, -1.0, -3.0], right=2).score == 0.0


def test_accuracies_by_hand():
    scores = [
        score("b", [-1, -2]),
        score("a", [-2, -1]),
        score("b", [-1, -1]),
        score("b", [-4, -3, -2, -1], right=3),
    ]
    assert accuracy(scores) == pytest.approx(2.5 / 4)
    assert by_group(scores) == {
        "a": {"accuracy": 0.0, "items": 1},
        "b": {"accuracy": pytest.approx(2.5 / 3), "items": 3},
    }
    assert list(by_group(scores)) == ["a", "b"]
    assert chance(scores) == pytest.approx((3 * 0.5 + 0.25) / 4)


def test_files_are_read_whole(write_lines):
    (pair,) = read_minimal_pairs(write_lines("a.jsonl", PAIR))
    assert (pair.group, pair.sentences, pair.right) == ("zgoda", ("mały dom", "mała dom"), 0)
    fact, bare = read_facts(write_lines("b.jsonl", {**FACT, "suffix": "."}, FACT))
    assert (fact.sentences, fact.right) == (("To B.", "To A."), 1)
    assert bare.sentences == ("To B", "To A")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"good": None}, '"good" is None; it must be a string'),
        ({"bad": " "}, "\"bad\" is ' '"),
        ({"phenomenon": 3}, '"phenomenon" is 3'),
        ({"bad": "mały dom"}, "are the same sentence"),
    ],
)
def test_bad_pairs_are_named(write_lines, changes, expected):
    path = write_lines("a.jsonl", PAIR, {**PAIR, **changes})
    with pytest.raises(DataError, match="line 2") as caught:
        read_minimal_pairs(path)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answer": "C"}, "the answer 'C' is not among the candidates"),
        ({"candidates": ["A"]}, "two or more"),
        ({"candidates": ["A", "B", "A"]}, "each different"),
        ({"candidates": "AB"}, "must be a list"),
        ({"candidates": ["A", ""]}, "must be a list of strings that are not empty"),
        ({"suffix": 3}, '"suffix" is 3'),
        ({"prompt": ""}, "\"prompt\" is ''"),
    ],
)
def test_bad_facts_are_named(write_lines, changes, expected):
    with pytest.raises(DataError, match="line 2") as caught:
        read_facts(write_lines("a.jsonl", FACT, {**FACT, **changes}))
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_missing_keys_and_empty_files_are_refused(write_lines, tmp_path):
    with pytest.raises(DataError, match='line 1: "good" is missing'):
        read_minimal_pairs(write_lines("a.jsonl", {"phenomenon": "p"}))
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no items"):
        read_facts(tmp_path / "b.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_facts(tmp_path / "c.jsonl")


def test_a_sentence_that_is_too_long_is_named(judged_model, write_lines):
    path = write_lines("a.jsonl", {**PAIR, "good": "zażółć " * 40})
    with pytest.raises(DataError, match=r"line 1: a sentence has \d+ tokens, more than"):
        scored(judged_model, read_minimal_pairs(path), 64)
