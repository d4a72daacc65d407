"""Rows of sequences that begin alike: laid out, numbered through and masked, by hand."""

import torch

from nemo_bielik.evaluate.shared_prefix import Batch, Row, shared_length


def test_a_group_by_hand():
    row = Row.of([[1, 7, 8, 9], [1, 7, 5], [1, 7, 6, 4]])
    assert row.tokens == [1, 7, 8, 6]  # the last token of a sequence is only predicted
    assert row.positions == [0, 1, 2, 2]
    assert row.segments == [0, 0, 1, 3]
    predictions = list(zip(row.sources, row.targets, row.owners, strict=True))
    assert predictions == [(0, 7, 0), (1, 8, 1), (2, 9, 1), (1, 5, 2), (1, 6, 3), (3, 4, 3)]
    assert row.log_probs([-1.0, -2.0, -3.0, -4.0]) == [-3.0, -4.0, -5.0]


def test_a_sequence_alone_is_its_own_beginning():
    row = Row.of([[1, 7, 8]])
    assert (row.tokens, row.sources, row.targets) == ([1, 7], [0, 1], [7, 8])
    assert row.owners == [0, 0]


def test_shared_length():
    assert shared_length([[1, 2, 3]]) == 3
    assert shared_length([[1, 2], [1, 2, 3]]) == 2
    assert shared_length([[1, 2], [1, 3]]) == 1


def test_rows_are_numbered_through():
    batch = Batch.of([Row.of([[1, 7, 8], [1, 7, 5]]), Row.of([[1, 4]])], torch.device("cpu"))
    assert batch.tokens.tolist() == [[1, 7], [1, 0]]
    assert batch.sources.tolist() == [0, 1, 1, 2]
    assert batch.targets.tolist() == [7, 8, 5, 4]
    assert batch.owners.tolist() == [0, 1, 2, 3]


def test_a_token_sees_the_beginning_and_its_own_sequence():
    batch = Batch.of([Row.of([[1, 7, 8, 8, 8], [1, 7, 5, 5]])], torch.device("cpu"))
    mask = batch.mask(None)
    assert mask is not None and mask.shape == (1, 1, 5, 5)
    assert mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    narrow = batch.mask(2)
    assert narrow is not None and narrow[0, 0, 3].int().tolist() == [0, 0, 1, 1, 0]
    assert narrow[0, 0, 4].int().tolist() == [0, 1, 0, 0, 1]


def test_no_mask_is_made_where_nothing_is_shared():
    batch = Batch.of([Row.of([[1, 4, 5]]), Row.of([[1, 4]])], torch.device("cpu"))
    assert batch.mask(None) is None
