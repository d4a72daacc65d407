"""Word models: exactly a half on the minimal pairs, about a tenth on the facts."""

import math
from pathlib import Path

import pytest

from nemo_bielik.data.tiny_polish import WorldConfig, write_world
from nemo_bielik.data.tiny_polish.baselines import (
    WordModel,
    evaluate_baseline,
    score_facts,
    score_minimal_pairs,
)
from nemo_bielik.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    config = WorldConfig(
        people=300,
        train_documents=8_000,
        recovery_documents=10,
        calibration_documents=10,
        validation_documents=10,
        test_documents=10,
        pairs_per_phenomenon=40,
        cloze_items=1_500,
    )
    write_world(path, config)
    return path


def test_unigram_is_at_chance(directory: Path) -> None:
    result = evaluate_baseline(directory, order=1)
    assert result["minimal_pairs_accuracy"] == 0.5
    assert set(result["by_phenomenon"].values()) == {0.5}
    assert 0.07 < result["fact_accuracy"] < 0.13


def test_bigram_knows_only_what_is_next_to_each_other(directory: Path) -> None:
    result = evaluate_baseline(directory, order=2)
    assert result["by_phenomenon"]["preposition_case"] > 0.52
    assert result["by_phenomenon"]["genitive_of_negation"] == pytest.approx(0.5, abs=0.05)
    assert 0.06 < result["fact_accuracy"] < 0.14


def test_bigram_probabilities_by_hand() -> None:
    model = WordModel(2, k=1.0).fit(["a b.", "a a."])
    # vocabulary a, b, full stop and the unseen: 4; "." starts both texts and is followed by a
    start, a_to_b = 3 / 6, 2 / 7
    assert model.score("a b") == pytest.approx(math.log(start * a_to_b))


def test_ties_share_the_credit() -> None:
    pairs = [{"phenomenon": "p", "good": "a", "bad": "b"}]
    item = {
        "relation": "r",
        "prompt": "",
        "answer": "a",
        "candidates": ["a", "b", "c", "d"],
        "suffix": ".",
    }
    assert score_minimal_pairs(lambda _: 0.0, pairs) == {"p": 0.5}
    assert score_facts(lambda _: 0.0, [item]) == {"r": 0.25}
    assert score_facts(lambda text: float(text == "a."), [item]) == {"r": 1.0}


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="order=3"):
        WordModel(3)
    with pytest.raises(ConfigError, match="k=0"):
        WordModel(1, k=0)
    with pytest.raises(DataError, match="write_world"):
        evaluate_baseline(tmp_path, 1)
