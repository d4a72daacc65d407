"""Calibration text: windows of tokens that `bielik tokenize` made, drawn without repetition."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.errors import DataError


def calibration_windows(
    directory: Path, samples: int, sequence_length: int, vocab_size: int, seed: int
) -> NDArray[np.int64]:
    """Return `samples` windows of the text end to end, [samples, sequence_length], drawn by `seed`.

    Raises `DataError` for text that is too short, or that holds ids beyond the vocabulary.
    """
    tokens = TokenFiles.open(directory).tokens
    check_length(directory, len(tokens), samples, sequence_length)
    drawn = np.random.default_rng(seed).permutation(len(tokens) // sequence_length)[:samples]
    whole: NDArray[Any] = tokens[: len(tokens) // sequence_length * sequence_length]
    windows = whole.reshape(-1, sequence_length)[np.sort(drawn)].astype(np.int64)
    if windows.max() >= vocab_size:
        raise DataError(
            f"{directory}: holds token {windows.max()}, but the model knows {vocab_size}; tokenize "
            "the text with the model's own tokenizer"
        )
    return windows


def check_length(directory: Path, tokens: int, samples: int, sequence_length: int) -> None:
    """Raise `DataError` unless `tokens` fill `samples` windows."""
    windows = tokens // sequence_length
    if windows < samples:
        raise DataError(
            f"{directory}: holds {tokens:,} tokens, enough for {windows} of {samples} calibration "
            f"samples of {sequence_length:,}; give more text, or fewer or shorter samples"
        )
