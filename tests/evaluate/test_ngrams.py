"""Perplexities of corpora small enough to count by hand."""

import math

import numpy as np
import pytest

from nemo_bielik.data.indexed import TokenWriter, token_dtype
from nemo_bielik.evaluate.ngrams import ngram_perplexity


@pytest.fixture
def tokens(tmp_path):
    """Return a function that writes documents and returns their directory."""

    def write(*documents):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        directory.mkdir()
        with TokenWriter(directory, token_dtype(100)) as writer:
            for document in documents:
                writer.add(np.array(document), np.array([len(document)], dtype=np.int32))
            writer.finish()
        return directory

    return write


#: Predicted tokens: 1, 0, 1, 1; pairs: 01 twice, 10 once, 11 once.
TRAIN = [0, 1, 0, 1, 1]


def test_a_unigram_model_by_hand(tokens):
    """p(1) = (3 + k) / (4 + 2k), p(0) = (1 + k) / (4 + 2k); the test predicts one of each."""
    found = ngram_perplexity(tokens(TRAIN), tokens([0, 1, 0]), order=1)
    assert found == pytest.approx(4.2 / math.sqrt(3.1 * 1.1))


def test_a_bigram_model_by_hand(tokens):
    """p(1|0) = (2 + k) / (2 + 2k) and p(0|1) = (1 + k) / (2 + 2k)."""
    found = ngram_perplexity(tokens(TRAIN), tokens([0, 1, 0]), order=2)
    assert found == pytest.approx(2.2 / math.sqrt(2.1 * 1.1))


def test_smoothing_is_k(tokens):
    found = ngram_perplexity(tokens(TRAIN), tokens([0, 1, 0]), order=2, k=2)
    assert found == pytest.approx(6 / math.sqrt(4 * 3))


def test_every_predicted_token_weighs_the_same(tokens):
    """Documents of different length are one stream of predictions: 1, 1, 1 and 0."""
    found = ngram_perplexity(tokens(TRAIN), tokens([1, 1, 1, 1], [1, 0]), order=1)
    assert found == pytest.approx(4.2 / (3.1**3 * 1.1) ** 0.25)


def test_documents_do_not_run_into_each_other(tokens):
    """Only 01 is ever seen, so after 1 both tokens are as likely."""
    assert ngram_perplexity(tokens([0, 1], [0, 1]), tokens([1, 0]), order=2) == pytest.approx(2)
    assert ngram_perplexity(tokens([0, 1, 0, 1]), tokens([1, 0]), order=2) < 1.2


def test_first_tokens_are_neither_counted_nor_predicted(tokens):
    train = tokens([7, 1], [8, 1], [9, 1])
    certain = ngram_perplexity(train, tokens([5, 1], [6, 1]), order=1, k=1e-9)
    assert certain == pytest.approx(1)


def test_a_token_unseen_in_training_counts_into_the_vocabulary(tokens):
    """Three tokens share the smoothing: p(2|1) = k / (2 + 3k)."""
    found = ngram_perplexity(tokens(TRAIN), tokens([1, 2]), order=2)
    assert found == pytest.approx(2.3 / 0.1)


@pytest.mark.parametrize("order", [1, 2])
def test_heavy_smoothing_knows_nothing(tokens, order):
    train, test = tokens([0, 1, 2, 3, 4] * 3), tokens([4, 3, 2, 1, 0])
    assert ngram_perplexity(train, test, order, k=1e9) == pytest.approx(5)


def test_a_cycle_is_all_a_bigram_model_needs(tokens):
    cycle = tokens([0, 1, 2, 3] * 50)
    assert ngram_perplexity(cycle, cycle, order=2, k=1e-9) == pytest.approx(1)
    assert ngram_perplexity(cycle, cycle, order=1, k=1e-9) == pytest.approx(4, rel=1e-3)
