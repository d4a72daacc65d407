"""Rows of whole documents: every piece once, none too long, little padding, a known order."""

import numpy as np
import pytest

from nemo_bielik.data.packing import (
    PIECE,
    best_fit,
    cut_pieces,
    interleave,
    pack,
    pair_pieces,
    truncated_pieces,
)


def lognormal_lengths(count: int, seed: int = 0) -> "np.ndarray":
    """Long-tailed lengths: median 256, sigma 1, at most 4096."""
    generator = np.random.default_rng(seed)
    return np.clip(np.exp(generator.normal(np.log(256), 1, count)), 1, 4096).astype(np.int32)


def test_long_texts_are_cut_at_multiples_of_the_row() -> None:
    pieces = cut_pieces(np.array([5, 12, 1, 11], np.int32), 5)
    expected = [(0, 5, False, 0), (5, 5, True, 1), (10, 5, True, 1), (15, 2, False, 1)]
    # the eleventh token of the last one is only predicted
    expected += [(17, 1, False, 2), (18, 5, True, 3), (23, 5, True, 3)]
    assert pieces.tolist() == expected
    assert pieces.dtype == PIECE


def test_long_conversations_lose_their_ends() -> None:
    pieces = truncated_pieces(np.array([5, 12, 4], np.int32), 5)
    assert pieces.tolist() == [(0, 5, False, 0), (5, 5, True, 1), (17, 4, False, 2)]


def test_pairs_are_one_piece_and_those_longer_than_a_row_are_left_out() -> None:
    pieces = pair_pieces(np.array([3, 2, 4, 4, 5, 2], np.int32), 7)
    assert pieces.tolist() == [(0, 5, False, 0), (13, 7, False, 4)]


def test_the_fullest_row_with_room_is_taken() -> None:
    # longest first: 7 | 6 | 4 fits beside the 6, exactly | 3 beside the 7 | 2 opens a row
    rows, emptiest = best_fit(np.array([2, 3, 4, 6, 7], np.int32), 10)
    assert rows.tolist() == [2, 0, 1, 1, 0]
    assert emptiest == 2
    assert best_fit(np.array([10, 10], np.int32), 10)[1] == -1  # all are full


@pytest.mark.parametrize("window", [1, 7, 100, 5000])
@pytest.mark.parametrize("longest", [10, 64])
def test_an_epoch_has_every_piece_once_and_no_row_is_too_long(window: int, longest: int) -> None:
    lengths = np.random.default_rng(window).integers(1, longest + 1, 1000).astype(np.int32)
    pieces = truncated_pieces(lengths, 64)
    rows = pack(pieces, 64, seed=3, epoch=0, window=window)
    assert sorted(rows.pieces.tolist()) == pieces.tolist()
    sizes = [int(rows[number]["length"].sum()) for number in range(len(rows))]
    assert sum(sizes) == lengths.sum() and min(sizes) > 0 and max(sizes) <= 64
    assert rows.waste == pytest.approx(1 - lengths.sum() / (64 * len(rows)))


def test_seed_and_epoch_decide_the_order() -> None:
    pieces = truncated_pieces(lognormal_lengths(3000), 4096)
    first = pack(pieces, 4096, seed=1, epoch=0)
    again, later, other = (
        pack(pieces, 4096, seed, epoch) for seed, epoch in [(1, 0), (1, 1), (2, 0)]
    )
    assert np.array_equal(first.pieces, again.pieces)
    assert np.array_equal(first.bounds, again.bounds)
    for different in (later, other):
        same = np.mean(first.pieces["start"] == different.pieces["start"])
        assert same < 0.01


@pytest.mark.parametrize("row_length", [4096, 32768])
def test_long_tailed_documents_fill_their_rows(row_length: int) -> None:
    lengths = lognormal_lengths(60_000)
    rows = pack(truncated_pieces(lengths, row_length), row_length, seed=1, epoch=0)
    filled = lengths.sum() / (len(rows) * row_length)
    assert filled > 0.97


def test_long_and_short_documents_come_at_all_times() -> None:
    """Packing goes by size within a window; the rows do not come in that order."""
    lengths = lognormal_lengths(20_000)
    rows = pack(truncated_pieces(lengths, 4096), 4096, seed=1, epoch=0)
    longest = np.array([rows[number]["length"].max() for number in range(len(rows))])
    halves = np.array_split(longest, 2)
    assert halves[0].mean() == pytest.approx(halves[1].mean(), rel=0.1)


@pytest.mark.parametrize(
    "weights", [[1.0], [0.7, 0.3], [1, 1, 1], [0.5, 0.3, 0.15, 0.05], [0.98, 0.01, 0.01]]
)
def test_a_blend_has_its_shares_after_any_number_of_rows(weights: list[float]) -> None:
    chosen = interleave(weights, 1000)
    given = np.cumsum(chosen[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, 1001)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(given - wanted).max() < 1
    assert given[-1].sum() == 1000


def test_random_shares_hold_too() -> None:
    """Choosing the source that is furthest behind strays by more than a row here."""
    generator = np.random.default_rng(0)
    for count in (3, 4, 6, 10):
        weights = generator.dirichlet(np.full(count, 0.5))
        given = np.cumsum(interleave(weights.tolist(), 500)[:, None] == np.arange(count), axis=0)
        assert np.abs(given - np.arange(1, 501)[:, None] * weights).max() < 1
