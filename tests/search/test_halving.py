"""Who trains how far: by hand, and whatever the numbers."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nemo_bielik.errors import ConfigError
from nemo_bielik.search.halving import Rung, entrants, plan


def test_ten_candidates_by_hand():
    """10 take a ninth, 4 of them a third, 2 all of 324 steps."""
    found = plan(10, 324, 3, 2, 18)
    assert found.rungs == (Rung(0, 36, 10), Rung(36, 108, 4), Rung(108, 324, 2))
    assert found.steps == 360 + 288 + 432
    assert found.exhaustive_steps == 3240
    assert found.share == pytest.approx(1 / 3)


def test_rungs_end_where_runs_are_validated():
    assert [rung.last_step for rung in plan(10, 200, 3, 2, 25).rungs] == [25, 75, 200]


def test_few_candidates_need_few_rungs():
    assert plan(2, 100, 3, 2).rungs == (Rung(0, 100, 2),)
    assert plan(1, 100, 3, 2).share == 1.0
    assert entrants(16, 2, 1) == [16, 8, 4, 2, 1]


def test_steps_that_tell_no_rungs_apart_are_one_line():
    with pytest.raises(ConfigError, match="20 steps in parts of 10 make no 3 rungs"):
        plan(10, 20, 3, 2, 10)


@given(
    candidates=st.integers(1, 60),
    parts=st.integers(1, 400),
    factor=st.integers(2, 5),
    finalists=st.integers(1, 4),
    multiple=st.integers(1, 20),
)
def test_every_schedule_narrows_and_lengthens(candidates, parts, factor, finalists, multiple):
    iters = parts * multiple
    try:
        found = plan(candidates, iters, factor, finalists, multiple)
    except ConfigError:
        assume(False)
    rungs = found.rungs
    assert rungs[0].entrants == candidates and rungs[0].first_step == 0
    assert rungs[-1].last_step == iters and rungs[-1].entrants <= max(finalists, 1)
    for before, after in itertools.pairwise(rungs):
        assert after.first_step == before.last_step < after.last_step
        assert math.ceil(before.entrants / factor) <= after.entrants < before.entrants
    for rung in rungs:
        assert rung.last_step % multiple == 0
    # counted candidate by candidate: the n-th best trains to the end of the last rung it enters
    longest = [max(r.last_step for r in rungs if place < r.entrants) for place in range(candidates)]
    assert found.steps == sum(longest)
    assert 0 < found.share <= 1
