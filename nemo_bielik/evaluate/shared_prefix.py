"""Sequences that begin alike, laid in one row so that their beginning is computed once.

A row holds the common beginning, then what each sequence adds to it; a token sees the beginning
and its own sequence, nothing of the others, and keeps the position it has in its own sequence. Ten
candidates for the last word of a sentence cost little more than one.

Shapes: b rows of s tokens, padded on the right; n predictions in all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

Tokens = Sequence[int]
_PADDING = -1


@dataclass
class Row:
    """One group of sequences as a row, with the predictions to read from it.

    `segments` is 0 in the common beginning and k for what the k-th sequence adds. Prediction i is
    of `targets[i]`, made at place `sources[i]`, and counts for segment `owners[i]`.
    """

    members: int
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, group: Sequence[Tokens]) -> "Row":
        """Lay out sequences of two tokens or more that have their first token in common."""
        row = cls(len(group))
        shared = shared_length(group)
        assert shared, "sequences of a group must begin alike"
        beginning = group[0][:shared]
        alone = all(len(sequence) == shared for sequence in group)
        # nothing is predicted from the last token of a sequence, so it need not be computed
        row._append(beginning[:-1] if alone else beginning, 0, segment=0)
        row._predict(range(shared - 1), beginning[1:], segment=0)
        for segment, sequence in enumerate(group, start=1):
            rest = sequence[shared:]
            start = len(row.tokens)
            row._append(rest[:-1], shared, segment)
            if rest:
                row._predict([shared - 1, *range(start, start + len(rest) - 1)], rest, segment)
        return row

    def log_probs(self, sums: Sequence[float]) -> list[float]:
        """Return one value a sequence, given the sum over each segment's predictions."""
        return [sums[0] + own for own in sums[1:]]

    def _append(self, tokens: Tokens, position: int, segment: int) -> None:
        self.tokens += tokens
        self.positions += range(position, position + len(tokens))
        self.segments += [segment] * len(tokens)

    def _predict(self, sources: Sequence[int], targets: Tokens, segment: int) -> None:
        self.sources += sources
        self.targets += targets
        self.owners += [segment] * len(targets)


@dataclass(frozen=True)
class Batch:
    """Padded rows: `tokens`, `positions`, `segments` [b, s]; `sources`, `targets`, `owners` [n].

    `sources` count through all rows laid end to end, `owners` through the segments of all rows.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    sources: Tensor
    targets: Tensor
    owners: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> "Batch":
        """Pad `rows` and number their predictions through."""
        length = max(len(row.tokens) for row in rows)
        first_segments = np.cumsum([0, *(row.members + 1 for row in rows)])
        starts = range(0, len(rows) * length, length)
        sources = [
            at + source for at, row in zip(starts, rows, strict=True) for source in row.sources
        ]
        owners = [
            first + owner
            for first, row in zip(first_segments.tolist(), rows, strict=False)
            for owner in row.owners
        ]
        targets = [target for row in rows for target in row.targets]
        return cls(
            _padded([row.tokens for row in rows], length, 0).to(device),
            _padded([row.positions for row in rows], length, 0).to(device),
            _padded([row.segments for row in rows], length, _PADDING).to(device),
            *(torch.tensor(values, device=device) for values in (sources, targets, owners)),
        )

    def mask(self, window: int | None) -> Tensor | None:
        """Return which keys a query sees, [b, 1, s, s], or None where causality says it all.

        `window` is the model's sliding window, in positions.
        """
        if not bool((self.segments > 0).any()):
            return None
        query, key = self.segments.unsqueeze(2), self.segments.unsqueeze(1)
        sees = ((key == 0) | (key == query)).tril()
        if window is not None:
            sees &= self.positions.unsqueeze(2) - self.positions.unsqueeze(1) < window
        return sees.unsqueeze(1)


def shared_length(group: Sequence[Tokens]) -> int:
    """Return how many tokens all sequences have in common at their beginning."""
    length = 0
    for column in zip(*group, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def _padded(rows: Sequence[Sequence[int]], length: int, filling: int) -> Tensor:
    padded = np.full((len(rows), length), filling, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)
