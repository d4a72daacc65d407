"""Bytes read for a token, by hand."""

import pytest

from nemo_bielik.arch import BIELIK_11B_V3
from nemo_bielik.planner.memory import kv_cache_bytes
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.planner.roofline import bytes_per_token, fitted_bandwidth, seconds_per_token


def test_all_weights_are_read_but_for_the_input_embeddings_other_rows() -> None:
    unread = 32127 * 4096
    assert bytes_per_token(BIELIK_11B_V3, "bf16") == 2 * (count_parameters(BIELIK_11B_V3) - unread)
    tied = BIELIK_11B_V3.replace(tie_word_embeddings=True)  # one matrix, read as the output's
    assert bytes_per_token(tied, "bf16") == 2 * count_parameters(tied)


def test_the_context_adds_its_keys_and_values() -> None:
    added = bytes_per_token(BIELIK_11B_V3, "fp8", 1000) - bytes_per_token(BIELIK_11B_V3, "fp8")
    assert added == kv_cache_bytes(BIELIK_11B_V3, "bf16", 1000) == 2 * 50 * 8 * 128 * 2 * 1000


@pytest.mark.parametrize("precision", ["bf16", "fp8", "nvfp4"])
def test_a_fit_gives_back_what_was_measured(precision: str) -> None:
    reached = fitted_bandwidth(BIELIK_11B_V3, precision, 0.02, context=100)
    assert seconds_per_token(BIELIK_11B_V3, precision, reached, context=100) == pytest.approx(0.02)
