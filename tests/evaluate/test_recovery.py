"""Recovery is a ratio: identities, and what has none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.recovery import recovery_percent


def test_plain_ratio_and_above_a_baseline():
    assert recovery_percent(0.63, 0.7) == pytest.approx(90.0)
    assert recovery_percent(0.8, 0.9, baseline=0.5) == pytest.approx(75.0)


@given(teacher=st.floats(0.51, 1.0), share=st.floats(0.0, 1.5))
def test_identities(teacher, share):
    assert recovery_percent(teacher, teacher) == pytest.approx(100.0)
    assert recovery_percent(0.5, teacher, baseline=0.5) == 0.0
    student = 0.5 + share * (teacher - 0.5)
    assert recovery_percent(student, teacher, baseline=0.5) == pytest.approx(100 * share, abs=1e-6)


@pytest.mark.parametrize("teacher", [0.0, -1.0, 0.25])
def test_a_teacher_no_better_than_the_baseline_is_refused(teacher):
    with pytest.raises(DataError, match="nothing to recover"):
        recovery_percent(0.5, teacher, baseline=max(teacher, 0.0))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(DataError, match="the student's score is nan"):
        recovery_percent(math.nan, 1.0)
    with pytest.raises(DataError, match="the teacher's score is inf"):
        recovery_percent(1.0, math.inf)
