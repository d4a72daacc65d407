"""Perplexity of running text: how well a model predicts each token from its own document.

A document is ``<s> text </s>``; every token but ``<s>`` is predicted once, the end of the document
included. A document of more than `sequence_length` predictions is cut into windows that do not
overlap: the first prediction of a further window sees one token, the last of the window before.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import DataError

if TYPE_CHECKING:
    from nemo_bielik.evaluate.language_model import LanguageModel

#: Documents held in memory and sorted by length at one time.
_DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True)
class DocumentScore:
    """One document: predicted tokens, bytes of its text, and its log-probability in nats."""

    text: str
    document: int
    tokens: int
    bytes: int
    log_prob: float


def score_text(
    model: "LanguageModel",
    tokenizer: TextTokenizer,
    documents: Iterable[str],
    sequence_length: int,
    text: str = "",
) -> Iterator[DocumentScore]:
    """Yield the score of each document that holds a token, numbered from 0.

    `text` is what the scores call the text that the documents come from.
    """
    for some in itertools.batched(enumerate(documents), _DOCUMENTS_AT_ONCE):
        yield from _score_documents(model, tokenizer, some, sequence_length, text)


def summarize(scores: Iterable[DocumentScore]) -> dict[str, Any]:
    """Return perplexity = exp(−Σ log P / tokens), tokens, and bits per byte of the text."""
    tokens = num_bytes = 0
    log_prob = 0.0
    for score in scores:
        tokens += score.tokens
        num_bytes += score.bytes
        log_prob += score.log_prob
    if not tokens:
        raise DataError("no text holds a single token; there is no perplexity to compute")
    return {
        "perplexity": math.exp(-log_prob / tokens),
        "tokens": tokens,
        "bits_per_byte": -log_prob / math.log(2) / num_bytes,
    }


def windows(ids: Sequence[int], sequence_length: int) -> list[Sequence[int]]:
    """Cut a document so that each window makes at most `sequence_length` predictions.

    Neighbours share one token, so that every token but the first is predicted exactly once.
    """
    starts = range(0, len(ids) - 1, sequence_length)
    return [ids[start : start + sequence_length + 1] for start in starts]


def _score_documents(
    model: "LanguageModel",
    tokenizer: TextTokenizer,
    documents: Sequence[tuple[int, str]],
    sequence_length: int,
    text: str,
) -> Iterator[DocumentScore]:
    encoded = tokenizer.encode_batch([document for _, document in documents])
    kept = [
        (number, len(document.encode("utf-8")), [tokenizer.bos_id, *ids, tokenizer.eos_id])
        for (number, document), ids in zip(documents, encoded, strict=True)
        if ids
    ]
    pieces = [windows(ids, sequence_length) for _, _, ids in kept]
    groups = [[piece] for piece in itertools.chain.from_iterable(pieces)]
    sums = (log_prob for (log_prob,) in model.log_probs(groups))
    for (number, size, ids), its_pieces in zip(kept, pieces, strict=True):
        log_prob = math.fsum(itertools.islice(sums, len(its_pieces)))
        yield DocumentScore(text, number, len(ids) - 1, size, log_prob)
