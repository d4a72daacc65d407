"""Perplexity against transformers' own loss, document by document and window by window."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.tokenizer import TextTokenizer, load_tokenizer
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.evaluate.perplexity import DocumentScore, score_text, summarize, windows

DOCUMENTS = ["ala ma kota", "", "zażółć gęślą jaźń " * 6, "dom", "las i rzeka, stary dom " * 9]


@pytest.fixture(scope="module")
def model(judged_model):
    return LanguageModel.open(Checkpoint.open(judged_model), tokens_per_batch=100)


@pytest.fixture
def scores(model, judged_model):
    return list(score_text(model, TextTokenizer.open(judged_model), DOCUMENTS, sequence_length=24))


def naive_losses(directory, text, sequence_length):
    """Sum of losses and number of predictions, with `labels`, one window at a time."""
    tokenizer, model = load_tokenizer(directory), AutoModelForCausalLM.from_pretrained(directory)
    ids = tokenizer(text)["input_ids"] + [tokenizer.eos_token_id]
    total = count = 0
    while len(ids) > 1:
        window = torch.tensor([ids[: sequence_length + 1]])
        with torch.no_grad():
            loss = model(input_ids=window, labels=window).loss
        total += loss.item() * (window.shape[1] - 1)
        count += window.shape[1] - 1
        ids = ids[sequence_length:]
    return total, count


def test_documents_agree_with_the_loss_of_transformers(scores, judged_model):
    assert [score.document for score in scores] == [0, 2, 3, 4]  # the empty one has no score
    for score in scores:
        loss, count = naive_losses(judged_model, DOCUMENTS[score.document], 24)
        assert score.tokens == count
        assert score.bytes == len(DOCUMENTS[score.document].encode())
        assert -score.log_prob == pytest.approx(loss, rel=1e-5)
    assert max(score.tokens for score in scores) > 3 * 24


def test_perplexity_weighs_by_tokens(scores, judged_model):
    losses = [naive_losses(judged_model, text, 24) for text in DOCUMENTS if text]
    total, count = map(sum, zip(*losses, strict=True))
    result = summarize(scores)
    assert result["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    assert result["tokens"] == count
    size = len("".join(DOCUMENTS).encode())
    assert result["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-5)


def test_the_summary_by_hand():
    scores = [
        DocumentScore("a", 0, tokens=1, bytes=2, log_prob=math.log(1 / 2)),
        DocumentScore("b", 0, tokens=3, bytes=6, log_prob=math.log(1 / 8)),
    ]
    assert summarize(scores) == pytest.approx({"perplexity": 2, "tokens": 4, "bits_per_byte": 0.5})


def test_no_tokens_have_no_perplexity():
    with pytest.raises(DataError, match="no text holds a single token"):
        summarize([])


@given(st.integers(2, 40), st.integers(1, 12))
def test_windows_predict_every_token_but_the_first_once(length, sequence_length):
    found = windows(list(range(length)), sequence_length)
    assert [token for window in found for token in window[1:]] == list(range(1, length))
    assert all(2 <= len(window) <= sequence_length + 1 for window in found)
