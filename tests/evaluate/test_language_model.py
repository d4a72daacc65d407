"""Batches, padding and shared beginnings change no score; the reference takes one at a time."""

import dataclasses
import math
import random

import pytest
import torch

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError
from nemo_bielik.evaluate import language_model
from nemo_bielik.evaluate.language_model import LanguageModel

SLIDING_WINDOW = 5


@pytest.fixture(scope="module")
def model(judged_model):
    return LanguageModel.open(Checkpoint.open(judged_model), tokens_per_batch=128)


def random_groups(count):
    """Groups of one to five sequences with a common beginning, one of them nothing but that."""
    rng = random.Random(0)
    groups = []
    for _ in range(count):
        beginning = [1, *rng.choices(range(3, 300), k=rng.randint(0, 30))]
        group = [
            [*beginning, *rng.choices(range(3, 300), k=rng.randint(1, 33))]
            for _ in range(rng.randint(1, 5))
        ]
        groups.append([*group, beginning] if len(beginning) > 1 and rng.random() < 0.3 else group)
    return groups


@pytest.fixture(scope="module")
def groups():
    return random_groups(40)


@pytest.fixture(scope="module")
def one_by_one(logits):
    """Return Σ log softmax, one sequence at a time: no batch, no padding, eager attention."""

    def run(directory, groups):
        return [
            [
                sum(
                    row[token].item()
                    for row, token in zip(found.double().log_softmax(-1), ids[1:], strict=False)
                )
                for ids in group
                for found in logits(directory, torch.tensor([ids]))
            ]
            for group in groups
        ]

    return run


@pytest.fixture(scope="module")
def expected(judged_model, groups, one_by_one):
    return one_by_one(judged_model, groups)


def assert_close(found, expected, tolerance=1e-5):
    assert [len(group) for group in found] == [len(group) for group in expected]
    for own, other in zip(found, expected, strict=True):
        assert own == pytest.approx(other, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("tokens_per_batch", [1, 64, 64 * 64])
def test_every_batch_size_agrees_with_one_sentence_at_a_time(
    model, groups, expected, tokens_per_batch
):
    found = dataclasses.replace(model, tokens_per_batch=tokens_per_batch).log_probs(groups)
    assert_close(found, expected)


def test_a_group_scores_as_its_members_alone(model, groups):
    alone = [[model.log_probs([[ids]])[0][0] for ids in group] for group in groups[:10]]
    assert_close(model.log_probs(groups[:10]), alone)


def test_scores_stay_in_the_order_given(model, groups):
    backwards = model.log_probs([group[::-1] for group in groups[::-1]])
    assert_close([group[::-1] for group in backwards[::-1]], model.log_probs(groups))


def test_a_sliding_window_reaches_no_further_in_a_group(make_model, one_by_one):
    directory = make_model(vocab_size=320, sliding_window=SLIDING_WINDOW)
    windowed = LanguageModel.open(Checkpoint.open(directory), tokens_per_batch=200)
    groups = random_groups(6)
    assert_close(windowed.log_probs(groups), one_by_one(directory, groups))


def test_logits_in_small_parts_give_the_same_scores(model, groups, expected, monkeypatch):
    monkeypatch.setattr(language_model, "_LOGITS_AT_ONCE", 7 * 320)
    assert_close(model.log_probs(groups), expected)


def test_progress_counts_every_sequence(model, groups):
    done: list[int] = []
    model.log_probs(groups, done.append)
    assert sum(done) == sum(map(len, groups))


def test_no_groups_have_no_scores(model):
    assert model.log_probs([]) == []


def test_probabilities_of_all_continuations_sum_to_one(model):
    prefix = [1, 17, 40]
    (found,) = model.log_probs([[prefix, *([*prefix, token] for token in range(320))]])
    shared, *continued = found
    assert sum(math.exp(value - shared) for value in continued) == pytest.approx(1.0, abs=1e-5)


def test_damaged_weights_are_refused(make_model, edit_weights):
    directory = make_model(vocab_size=320)
    with edit_weights(directory) as weights:
        weights["model.norm.weight"][3] = float("nan")
    broken = LanguageModel.open(Checkpoint.open(directory), tokens_per_batch=64)
    with pytest.raises(CheckpointError, match="weights are damaged"):
        broken.log_probs([[[1, 5, 9]]])


def test_weights_are_float32_on_a_cpu(model):
    if model.model.device.type == "cpu":
        assert {weight.dtype for weight in model.model.parameters()} == {torch.float32}
