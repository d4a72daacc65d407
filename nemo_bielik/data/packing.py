"""Documents into rows of one length, none of them cut: which pieces share a row.

Best fit decreasing (the longest piece first, each into the fullest row that still has room;
Johnson et al., "Worst-case performance bounds for simple one-dimensional packing algorithms",
1974) within windows of the shuffled documents, so that an epoch of millions takes seconds and its
order stays random. The emptiest row of a window is opened again in the next one.

Plain numpy on lengths alone. The same lengths, seed and row length always give the same rows.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Tokens `start` to `start + length` of a directory's tokens; `goes_on` where the document does.
#: `document` is the number of the document, of a pair that of its first one.
PIECE = np.dtype(
    [("start", np.int64), ("length", np.int32), ("goes_on", np.bool_), ("document", np.int32)]
)
#: Pieces that are fitted together: more of them save nothing, and cost time and randomness.
WINDOW_PIECES = 16_384
_ROW_BITS = 32
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Rows:
    """One epoch: row i holds `pieces[bounds[i]:bounds[i + 1]]`, at most `row_length` tokens.

    Shapes: `pieces` [pieces] of `PIECE`, `bounds` [rows + 1].
    """

    pieces: NDArray[Any]
    bounds: NDArray[np.int64]
    row_length: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        """Return the pieces of one row, in the order in which they stand there."""
        return self.pieces[self.bounds[row] : self.bounds[row + 1]]

    @property
    def waste(self) -> float:
        """Share of the positions that hold no token."""
        positions = len(self) * self.row_length
        return 1 - int(self.pieces["length"].sum(dtype=np.int64)) / positions


def cut_pieces(lengths: NDArray[np.int32], row_length: int) -> NDArray[Any]:
    """Return documents as pieces of at most a row, the longer ones cut at its multiples.

    A document's last token needs no place of its own in another row: it is only predicted.

    Args:
        lengths: tokens of each document, [documents]; they lie end to end.
    """
    counts = np.maximum(-(-(lengths.astype(np.int64) - 1) // row_length), 1)
    first_piece, begins = _starts(counts), _starts(lengths)
    document = np.repeat(np.arange(len(lengths)), counts)
    within = (np.arange(len(document)) - first_piece[document]) * row_length
    rest = lengths[document] - within
    pieces = np.empty(len(document), PIECE)
    pieces["start"] = begins[document] + within
    pieces["length"] = np.minimum(rest, row_length)
    pieces["goes_on"] = rest > row_length
    pieces["document"] = document
    return pieces


def truncated_pieces(lengths: NDArray[np.int32], row_length: int) -> NDArray[Any]:
    """Return documents as one piece each, the longer ones without what follows a row's length."""
    pieces = np.empty(len(lengths), PIECE)
    pieces["start"] = _starts(lengths)
    pieces["length"] = np.minimum(lengths, row_length)
    pieces["goes_on"] = lengths > row_length
    pieces["document"] = np.arange(len(lengths))
    return pieces


def pair_pieces(lengths: NDArray[np.int32], row_length: int) -> NDArray[Any]:
    """Return pairs of consecutive documents as one piece each, those longer than a row left out."""
    both = lengths.reshape(-1, 2).sum(axis=1, dtype=np.int64)
    fits = both <= row_length
    pieces = np.zeros(int(fits.sum()), PIECE)
    pieces["start"] = _starts(lengths)[::2][fits]
    pieces["length"] = both[fits]
    pieces["document"] = 2 * np.flatnonzero(fits)
    return pieces


def pack(
    pieces: NDArray[Any], row_length: int, seed: int, epoch: int, window: int = WINDOW_PIECES
) -> Rows:
    """Return one epoch's rows: every piece once, in an order that `seed` and `epoch` decide."""
    generator = np.random.default_rng((seed, epoch))
    order, row_of = _fitted(
        pieces["length"], generator.permutation(len(pieces)), row_length, window
    )
    rows = int(row_of.max()) + 1 if len(row_of) else 0
    row_of = generator.permutation(rows)[row_of]
    bounds = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=bounds[1:])
    return Rows(pieces[order[np.argsort(row_of, kind="stable")]], bounds, row_length)


def _fitted(
    lengths: NDArray[np.int32], order: NDArray[np.int64], row_length: int, window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pieces in some order and the row of each, window by window; both [pieces]."""
    chosen, rows, first = [order[:0]], [order[:0]], 0
    carried = order[:0]
    for start in range(0, len(order), window):
        members = np.concatenate([carried, order[start : start + window]])
        row_of, emptiest = best_fit(lengths[members], row_length)
        if start + window >= len(order):
            emptiest = -1  # there is no next window to fill it in
        stays = row_of != emptiest
        carried = members[~stays]
        row_of = row_of[stays]
        if len(carried):
            row_of -= row_of > emptiest
        chosen.append(members[stays])
        rows.append(row_of + first)
        first += int(row_of.max(initial=-1)) + 1
    return np.concatenate(chosen), np.concatenate(rows)


def best_fit(lengths: NDArray[np.int32], row_length: int) -> tuple[NDArray[np.int64], int]:
    """Return the row of every piece, [pieces], and the row with most room (-1 if all are full)."""
    sizes: list[int] = lengths.tolist()
    row_of = np.empty(len(sizes), np.int64)
    open_rows: list[int] = []  # room << 32 | row, by room
    rows = 0
    for piece in np.argsort(-lengths, kind="stable").tolist():
        size = sizes[piece]
        place = bisect_left(open_rows, size << _ROW_BITS)
        if place == len(open_rows):
            row, room = rows, row_length
            rows += 1
        else:
            room, row = divmod(open_rows.pop(place), 1 << _ROW_BITS)
        row_of[piece] = row
        if room > size:
            insort(open_rows, (room - size) << _ROW_BITS | row)
    return row_of, open_rows[-1] % (1 << _ROW_BITS) if open_rows else -1


def interleave(weights: list[float], rows: int) -> NDArray[np.int16]:
    """Return which of several sources gives each row, [rows].

    After any number n of rows each source has given its share w · n, rounded up or down: its j-th
    row comes no earlier than (j - 1) / w and no later than j / w, and of those that may come the
    one that must come first does (earliest deadline first; Baruah et al., "Proportionate progress",
    1996). Choosing the source that is furthest behind, as Megatron does, strays further once there
    are three.
    """
    shares = (np.array(weights, np.float64) / np.sum(weights)).tolist()
    return np.fromiter(_by_deadline(shares, rows), np.int16, rows)


def _by_deadline(shares: list[float], rows: int) -> Iterator[int]:
    given = [0] * len(shares)
    sources = [source for source, share in enumerate(shares) if share > 0]
    for row in range(rows):
        due = [s for s in sources if given[s] < shares[s] * (row + 1) - _ROUNDING] or sources
        source = min(due, key=lambda s: (given[s] + 1) / shares[s])
        given[source] += 1
        yield source


def _starts(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each of several runs that lie end to end begins."""
    starts = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return starts
