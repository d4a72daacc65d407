"""Tokens for a recovery: a known curve gives known answers."""

import pytest

from nemo_bielik.search.tokens_needed import forecast, recovery


def points(floor, count=8):
    return [(0.0, 2.0), *((1000.0 * n, floor + 2 * n**-1.0) for n in range(1, count + 1))]


def test_recovery_is_the_share_of_the_damage_made_good():
    assert recovery(0.5, 2.0) == 0.75
    assert recovery(2.0, 2.0) == 0.0


def test_a_known_curve_gives_known_tokens():
    """KL = 2000 / tokens: 90 % recovered, 0.2, after ten thousand; after 40,000 it is 0.05."""
    found = forecast(points(0.0), 2.0, 40_000, 1.0)
    low, middle, high = found["tokens_for"]["0.9"]
    assert middle == pytest.approx(10_000, rel=0.05)
    assert low <= middle <= high
    assert found["at_budget"]["kl"][1] == pytest.approx(0.05, abs=0.01)
    assert found["at_budget"]["recovery"][1] == pytest.approx(0.975, abs=0.01)
    assert (found["from_tokens"], found["from_points"]) == (8000.0, 8)


def test_what_the_curve_never_reaches_is_said():
    found = forecast(points(0.5), 2.0, 40_000, 1.0)
    assert found["tokens_for"]["0.9"][1] is None
    assert found["tokens_for"]["0.5"][1] == pytest.approx(4000, rel=0.05)


def test_too_few_validations_say_nothing():
    assert forecast(points(0.0, 5), 2.0, 40_000, 1.0) is None


def test_a_floor_that_may_be_noise_lowers_what_is_possible_and_nothing_else():
    """KL = 0.5 + 2000 / tokens; an eighth of the rate is left, and so perhaps of the floor."""
    stays, falls = (forecast(points(0.5), 2.0, 40_000, left) for left in (1.0, 0.125))
    assert falls["at_budget"]["kl"][1:] == stays["at_budget"]["kl"][1:]
    assert falls["at_budget"]["kl"][0] == pytest.approx(0.5 / 8 + 0.05, abs=0.01)
    # 0.2 is below the floor: out of reach if the rate stays, 2000 / (0.2 - 0.0625) if it falls
    assert stays["tokens_for"]["0.9"] == [None, None, None]
    assert falls["tokens_for"]["0.9"] == [pytest.approx(14_545, rel=0.1), None, None]
