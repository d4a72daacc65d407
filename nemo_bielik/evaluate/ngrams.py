"""Perplexity of token n-gram models: what a model must beat to have learned anything."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.indexed import read_documents


def ngram_perplexity(train: Path, test: Path, order: int, k: float = 0.1) -> float:
    """Return exp of the mean surprise a token, with add-k smoothing, under order 1 or 2.

    Counted as for models: every token of a test document but its first, given what precedes it.

    Args:
        train: directory of tokens to count.
        test: directory of tokens to predict, of the same tokenizer.
    """
    pairs = [_pairs(document) for document in read_documents(train)]
    context, token = np.concatenate(pairs, axis=1)
    test_context, test_token = np.concatenate(
        [_pairs(document) for document in read_documents(test)], axis=1
    )
    size = int(max(context.max(), token.max(), test_context.max(), test_token.max())) + 1
    if order == 1:
        context, test_context = np.zeros_like(context), np.zeros_like(test_context)
    counts = np.bincount(context * size + token, minlength=size * size).reshape(size, size)
    totals = counts.sum(axis=1)
    probability = (counts[test_context, test_token] + k) / (totals[test_context] + k * size)
    return math.exp(-float(np.log(probability).mean()))


def _pairs(document: NDArray[Any]) -> NDArray[np.int64]:
    return np.stack([document[:-1], document[1:]]).astype(np.int64)
