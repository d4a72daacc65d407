"""Spikes, divergence and hopelessness: planted ones found, sound runs left alone."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.errors import ConfigError
from nemo_bielik.search.verdicts import StabilityLimits, measure_futility, measure_stability

LIMITS = StabilityLimits(window=5, gradient_spike=4.0, loss_spike=8.0, spike_share=0.1)
STEPS = 45


def run(seed: int = 1) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of a run that learns, with the noise of small batches."""
    noise = random.Random(seed)
    losses = [(0.3 + 1.2 * (step + 3) ** -0.5) * noise.uniform(0.95, 1.05) for step in range(STEPS)]
    return losses, [noise.uniform(0.7, 1.4) for _ in range(STEPS)]


def complaint(losses, norms, kl_after_cut=1.0, kl=0.5, incident=""):
    return measure_stability(losses, norms, kl_after_cut, kl, LIMITS, incident).complaint(LIMITS)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers())
def test_a_run_that_learns_is_stable(seed):
    assert complaint(*run(seed)) == ""


def test_gradient_spikes_are_counted_against_the_median_before_them():
    losses, norms = [1.0] * 15, [1.0] * 15
    norms[7], norms[10] = 4.0, 9.0  # 4 is the limit and no spike
    found = measure_stability(losses, norms, 1.0, 0.5, LIMITS)
    assert (found.judged_steps, found.gradient_spikes, found.largest_gradient) == (10, 1, 9.0)
    assert found.complaint(LIMITS) == ""  # one of ten is allowed
    norms[12] = 5.0
    assert complaint(losses, norms) == (
        "gradient spikes in 2 of 10 steps, limit 10%; the largest 9 times the median"
    )


def test_loss_spikes_are_counted_in_deviations():
    # before step 6: 1, 2, 3, 4, 5: median 3, median distance 1: a spike is above 3 + 8 · 1.4826
    for loss, spikes in ((14.86, 0), (14.87, 1)):
        found = measure_stability([1, 2, 3, 4, 5, loss], [1.0] * 6, 1.0, 0.5, LIMITS)
        assert found.loss_spikes == spikes


def test_a_loss_that_never_moves_has_a_deviation():
    found = measure_stability([1.0] * 5 + [1.05, 1.09], [1.0] * 7, 1.0, 0.5, LIMITS)
    assert found.loss_spikes == 1  # a hundredth of the median: 5 deviations, then 9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kl": 1.01}, "diverged: held-out KL 1.01, 1 right after the cut"),
        ({"kl": math.nan}, "diverged: held-out KL nan"),
        ({"kl": math.inf, "incident": "step 3: the loss is nan"}, "diverged: step 3: the loss"),
    ],
)
def test_divergence_is_named(changes, said):
    assert complaint(*run(), **changes).startswith(said)


def points(floor: float, seed: int) -> list[tuple[float, float]]:
    noise = random.Random(seed)
    return [
        (100 * step, (floor + 1.0 * step**-0.5) * noise.uniform(0.97, 1.03))
        for step in range(1, 60)
    ]


def test_the_hopeless_are_told_from_the_close():
    leader = points(0.1, 1)
    hopeless = measure_futility(points(2.0, 2), 50_000, "best", leader)
    assert hopeless.cannot_win
    assert hopeless.leader_reached == pytest.approx(leader[-1][1], rel=0.2)
    assert hopeless.reason().startswith("cannot win: ")
    assert f"best has reached {hopeless.leader_reached:.4g}" in hopeless.reason()
    assert not measure_futility(points(0.12, 2), 50_000, "best", leader).cannot_win


def test_too_few_steps_say_nothing():
    assert measure_futility(points(2.0, 1)[:4], 50_000, "best", points(0.1, 1)) is None


@settings(max_examples=30, deadline=None)
@given(floor=st.floats(0, 0.3), seed=st.integers())
def test_who_is_ahead_in_the_end_is_not_called_hopeless(floor, seed):
    """A candidate that ends below where the leader is now can still win."""
    assert not measure_futility(points(floor, seed), 50_000, "x", points(0.3, seed + 1)).cannot_win


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": 2}, "judge.window is 2"),
        ({"gradient_spike": 1.0}, "judge.gradient_spike is 1.0"),
        ({"spike_share": 1.0}, "judge.spike_share is 1.0"),
    ],
)
def test_limits_that_cannot_be_are_one_line(changes, said):
    with pytest.raises(ConfigError, match=said):
        StabilityLimits(**changes)


def test_a_single_spike_is_no_pattern():
    norms = [1.0] * 15
    norms[8] = 50.0
    strict = StabilityLimits(window=5, spike_share=0.0)
    assert measure_stability([1.0] * 15, norms, 1.0, 0.5, strict).complaint(strict) == ""
    norms[9] = 50.0
    assert measure_stability([1.0] * 15, norms, 1.0, 0.5, strict).complaint(strict)
