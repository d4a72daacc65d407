"""Masks against brute force, exact counts and patterns, and which settings are refused."""

import pytest
import torch

from nemo_bielik.arch import preset
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning import sparsity
from nemo_bielik.pruning.sparsity import (
    Sparsity,
    first_ties,
    keep_largest,
    projections,
    zero_rows,
)


def brute_force(scores, kept):
    """Keep the largest of every row; of equal ones those that come first."""
    mask = torch.zeros_like(scores, dtype=torch.bool)
    for number, row in enumerate(scores.tolist()):
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))
        mask[number, order[:kept]] = True
    return mask


def scores_with_ties(*shape, seed=0):
    return torch.randint(0, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("kept", [0, 1, 5, 11, 12])
@pytest.mark.parametrize("seed", range(5))
def test_the_largest_stay_and_of_equal_ones_the_first(kept, seed):
    scores = scores_with_ties(7, 12, seed=seed)
    assert torch.equal(keep_largest(scores, kept), brute_force(scores, kept))


def test_equal_scores_stay_from_the_left():
    kept = Sparsity.parse(0.5).keep_in_rows(torch.ones(2, 6))
    assert kept.tolist() == [[True] * 3 + [False] * 3] * 2


def test_first_ties_count_from_the_left():
    ties = torch.tensor([[False, True, True, False, True]])
    assert first_ties(ties, 2).tolist() == [[False, True, True, False, False]]


@pytest.mark.parametrize(("ratio", "zeros"), [(0.5, 5), (0.29, 3), (0.04, 0), (0.96, 10)])
def test_every_row_loses_its_share_rounded_to_the_nearest(ratio, zeros):
    sparsity = Sparsity.parse(ratio)
    scores = scores_with_ties(4, 10)
    found = sparsity.keep_in_rows(scores)
    assert torch.equal(found, brute_force(scores, 10 - zeros))
    assert (~found).sum(dim=1).tolist() == [zeros] * 4


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.77])
def test_a_tensor_loses_its_share_wherever_the_scores_are_low(ratio):
    scores = scores_with_ties(6, 10)
    found = Sparsity.parse(ratio).keep_in_tensor(scores)
    expected = brute_force(scores.view(1, -1), 60 - round(ratio * 60)).view(6, 10)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:3", 1, 3)])
def test_a_pattern_keeps_the_best_of_every_group_and_nothing_else(pattern, n, m):
    sparsity = Sparsity.parse(None, pattern)
    assert (sparsity.ratio, sparsity.n, sparsity.m) == (1 - n / m, n, m)
    scores = scores_with_ties(5, 24)
    expected = torch.cat([brute_force(group, n) for group in scores.split(m, dim=1)], dim=1)
    assert torch.equal(sparsity.keep_in_rows(scores), expected)
    assert torch.equal(sparsity.keep_in_tensor(scores), expected)


@pytest.mark.parametrize(("part", "sizes"), [(1, [1] * 5), (25, [2, 2, 1]), (1000, [5])])
def test_rows_come_in_order_a_few_at_a_time(part, sizes, monkeypatch):
    monkeypatch.setattr(sparsity, "PART_WEIGHTS", part)
    weight, seen = scores_with_ties(5, 10), []

    def keep(rows):
        seen.append(rows)
        return rows > 4

    found = zero_rows(weight, keep)
    assert [len(rows) for rows in seen] == sizes
    assert torch.equal(torch.cat(seen), weight)
    assert torch.equal(found, torch.where(weight > 4, weight, 0))


def test_a_pattern_decides_alone():
    assert Sparsity.parse(0.9, "2:4") == Sparsity(0.5, 2, 4)


@pytest.mark.parametrize("pattern", ["2", "4:4", "0:4", "5:4", "a:b", "2:4:8", "-2:4", "2.0:4"])
def test_a_pattern_that_is_none_is_one_line(pattern):
    with pytest.raises(ConfigError, match=f"pattern is '{pattern}'; it must be n:m") as caught:
        Sparsity.parse(None, pattern)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", [None, 0, 1, -0.5, 50, float("nan")])
def test_a_share_that_is_none_is_one_line(ratio):
    with pytest.raises(ConfigError, match=f"sparsity is {ratio}; it must be above 0 and below 1"):
        Sparsity.parse(ratio)


def test_a_pattern_that_does_not_divide_the_inputs_is_one_line():
    arch = preset("exp-010")
    Sparsity.parse(None, "2:4").require_fit(arch)
    Sparsity.parse(0.3).require_fit(arch)
    with pytest.raises(ConfigError, match=r"2:3 does not fit .*q_proj\.weight: its 4096") as caught:
        Sparsity.parse(None, "2:3").require_fit(arch)
    assert "\n" not in str(caught.value)


def test_projections_are_the_seven_matrices_of_every_layer():
    arch = preset("exp-010")
    rows = projections(arch)
    assert len(rows) == 7 * arch.num_layers
    assert {row.name.split(".")[-2] for row in rows} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
