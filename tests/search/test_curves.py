"""Power laws through loss curves: exact ones found again, noisy ones within their interval."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.errors import DataError
from nemo_bielik.search.curves import binned, fit, student_quantile


def law(floor, scale, exponent, places):
    return [(t, floor + scale * t**-exponent) for t in places]


@pytest.mark.parametrize(
    ("floor", "scale", "exponent"), [(0.1, 5.0, 0.5), (0.0, 2.0, 0.25), (1, 9, 1)]
)
def test_a_power_law_is_found_again(floor, scale, exponent):
    curve = fit(law(floor, scale, exponent, range(10, 110, 10)))
    wanted = floor + scale * 900**-exponent
    found = curve.at(900)
    assert found.middle == pytest.approx(wanted, rel=0.01)
    assert found.low <= found.middle <= found.high
    loss = floor + scale * 400**-exponent
    assert curve.until(loss, 1e4).middle == pytest.approx(400, rel=0.1)


def test_a_curve_that_rises_is_taken_for_flat():
    found = fit([(t, 1 + t / 100) for t in range(1, 11)]).at(1000)
    assert found.middle == pytest.approx(1.055)  # the mean: nothing above it is promised


def test_what_is_never_reached_is_infinite():
    curve = fit(law(0.5, 1.0, 1.0, range(10, 110, 10)))
    assert math.isinf(curve.until(0.1, 1e6).middle)


@settings(max_examples=40, deadline=None)
@given(
    floor=st.floats(0, 1), scale=st.floats(0.5, 5), exponent=st.floats(0.2, 1.5), seed=st.integers()
)
def test_intervals_are_in_order_and_never_below_zero(floor, scale, exponent, seed):
    noise = random.Random(seed)
    points = [
        (t, loss * noise.gauss(1, 0.03)) for t, loss in law(floor, scale, exponent, range(1, 13))
    ]
    found = fit(points).at(100)
    assert 0 <= found.low <= max(found.middle, 0) <= found.high


def test_nineteen_of_twenty_intervals_hold_the_truth():
    """Of 200 noisy curves from one law at least 95 % must: the interval is meant to be wide."""
    noise = random.Random(1)
    truth = 0.3 + 2 * 60**-0.6
    held = 0
    for _ in range(200):
        points = [(t, loss + noise.gauss(0, 0.02)) for t, loss in law(0.3, 2, 0.6, range(2, 22, 2))]
        found = fit(points).at(60)
        held += found.low <= truth <= found.high
    assert held >= 190


def test_too_few_points_are_refused():
    with pytest.raises(DataError, match="5 points of a loss curve; a fit needs 6"):
        fit(law(0, 1, 1, range(1, 6)))


@pytest.mark.parametrize(
    ("degrees", "table"), [(3, 3.182), (4, 2.776), (7, 2.365), (10, 2.228), (30, 2.042)]
)
def test_students_quantiles_are_those_of_the_tables(degrees, table):
    assert student_quantile(0.95, degrees) == pytest.approx(table, rel=0.02)


def test_bins_are_means_over_equal_ratios():
    # edges 1, 2, 4, 8: one point, then 2 above 1..2, 2 in 2..4, 4 in 4..8
    points = [(float(t), float(10 * t)) for t in range(1, 9)]
    assert binned(points, 3) == [(1.5, 15.0), (3.5, 35.0), (6.5, 65.0)]
    assert binned([], 3) == []
