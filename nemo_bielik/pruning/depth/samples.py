"""What layers are chosen by, and what the choices are judged on: text and items, never the same.

A document is ``<s> text </s>``, cut into windows as `bielik evaluate` cuts it. Of each kind of
items (a phenomenon, a relation), the first half in the order of the file is for choosing and the
rest for judging: items that are alike tend to stand side by side, so this keeps them together.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nemo_bielik.data.text import read_documents
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.choices import Choice
from nemo_bielik.evaluate.perplexity import windows

_DOCUMENTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Sample:
    """Windows of text as token ids, and the items of each suite (``"facts"``) by its name."""

    windows: list[Sequence[int]]
    suites: dict[str, list[Choice]]

    @property
    def tokens(self) -> int:
        """Predictions that a pass over the text makes."""
        return sum(len(window) - 1 for window in self.windows)

    @property
    def sentences(self) -> int:
        """Sentences that a pass over the items scores."""
        return sum(len(item.sentences) for items in self.suites.values() for item in items)

    @property
    def fewest_items(self) -> int:
        """Items of the smallest suite, 0 without any."""
        return min(map(len, self.suites.values()), default=0)

    def draw(self, size: int, number: int, seed: int) -> "Sample":
        """Return the `number`-th sample of `size` windows and `size` items of each suite.

        Samples of one seed and size share nothing. The last one of a suite may be smaller.
        """

        def drawn[T](members: Sequence[T]) -> list[T]:
            order = np.random.default_rng(seed).permutation(len(members))
            return [members[place] for place in order[number * size : (number + 1) * size]]

        return Sample(drawn(self.windows), {name: drawn(own) for name, own in self.suites.items()})


def text_windows(
    documents: Iterable[str], tokenizer: TextTokenizer, sequence_length: int
) -> list[Sequence[int]]:
    """Return all windows of at most `sequence_length` predictions, in order."""
    found: list[Sequence[int]] = []
    for some in itertools.batched(documents, _DOCUMENTS_AT_ONCE):
        for ids in tokenizer.encode_batch(some):
            if ids:
                document = [tokenizer.bos_id, *ids, tokenizer.eos_id]
                found += windows(document, sequence_length)
    return found


def split_documents(
    texts: Sequence[Path], held_out: Sequence[Path], separator: str | None
) -> tuple[list[str], list[str]]:
    """Return the documents to choose by, each once, and those to judge on that are not among them.

    Raises `DataError` if nothing is left to judge on.
    """
    choosing = dict.fromkeys(_documents(texts, separator))
    judging = [text for text in _documents(held_out, separator) if text not in choosing]
    if not judging:
        raise DataError(
            f"{', '.join(map(str, held_out))}: every document is in texts too; "
            "held_out must hold others"
        )
    return list(choosing), judging


def halve(items: Sequence[Choice], path: Path) -> tuple[list[Choice], list[Choice]]:
    """Return the items to choose by and those to judge on: of every kind, half for each.

    The odd item is for judging. Raises `DataError` if no kind has two items.
    """
    kinds: dict[str, list[Choice]] = {}
    for item in items:
        kinds.setdefault(item.group, []).append(item)
    choosing = [item for own in kinds.values() for item in own[: len(own) // 2]]
    judging = [item for own in kinds.values() for item in own[len(own) // 2 :]]
    if not choosing:
        raise DataError(
            f"{path}: too few items to halve, {len(items)} in all and one of a kind at most; "
            "half of a kind chooses the layers and half judges the choice, so give two or more"
        )
    return choosing, judging


def _documents(paths: Sequence[Path], separator: str | None) -> Iterator[str]:
    for path in paths:
        yield from read_documents(path, separator)
