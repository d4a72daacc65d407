"""Layers over pipeline stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_bielik.planner.stages import layers_of_stages


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (50, 4, [12, 13, 13, 12]),
        (50, 8, [6, 6, 6, 7, 7, 6, 6, 6]),
        (40, 8, [5] * 8),
        (5, 2, [3, 2]),
        (7, 7, [1] * 7),
    ],
)
def test_a_remainder_goes_to_the_middle(layers: int, stages: int, expected: list[int]) -> None:
    assert list(layers_of_stages(layers, stages)) == expected


@given(st.integers(1, 200), st.integers(1, 64))
def test_all_layers_are_dealt_and_no_stage_has_two_more_than_another(
    layers: int, stages: int
) -> None:
    counts = layers_of_stages(layers, stages)
    assert sum(counts) == layers and len(counts) == stages
    assert max(counts) - min(counts) <= 1
