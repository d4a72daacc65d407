"""Calibration text: windows of the text itself, each at most once."""

import numpy as np
import pytest

from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.errors import DataError
from nemo_bielik.quantize.calibration import calibration_windows


def test_windows_are_different_parts_of_the_text(random_tokens):
    tokens = random_tokens(105)
    text = TokenFiles.open(tokens).tokens
    windows = calibration_windows(tokens, 10, 10, 48, seed=1)
    assert sorted(map(tuple, windows)) == sorted(map(tuple, text[:100].reshape(10, 10)))


def test_another_seed_draws_others(random_tokens):
    tokens = random_tokens(1000)
    first, second = (calibration_windows(tokens, 5, 10, 48, seed) for seed in (1, 2))
    assert first.shape == (5, 10)
    assert np.array_equal(first, calibration_windows(tokens, 5, 10, 48, 1))
    assert not np.array_equal(first, second)


def test_too_little_text_is_refused(random_tokens):
    with pytest.raises(DataError, match="holds 99 tokens, enough for 9 of 10 calibration samples"):
        calibration_windows(random_tokens(99), 10, 10, 48, 1)


def test_text_of_another_tokenizer_is_refused(random_tokens):
    with pytest.raises(DataError, match="holds token 47, but the model knows 40"):
        calibration_windows(random_tokens(100), 10, 10, 40, 1)
