"""Hard-concrete gates against Monte Carlo, a fine grid over the noise, and values by hand."""

import math

import numpy as np
import pytest
import torch

from nemo_bielik.pruning.hard_concrete import (
    expected_value,
    open_probability,
    sample,
)

LOG_ALPHAS = torch.tensor([-4.0, -1.6, -0.3, 0.0, 0.7, 2.0, 5.0], dtype=torch.float64)
DRAWS = 200_000


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """Masks [draws, log α]."""
    generator = torch.Generator().manual_seed(1)
    shape = (DRAWS, len(LOG_ALPHAS))
    noise = torch.rand(shape, generator=generator, dtype=torch.float64)
    return sample(LOG_ALPHAS.expand(shape), noise)


def within(mean: torch.Tensor, expected: torch.Tensor, spread: torch.Tensor) -> None:
    """Compare a Monte Carlo mean with its expectation: five standard errors."""
    bound = 5 * spread / math.sqrt(DRAWS) + 1e-12
    assert ((mean - expected).abs() < bound).all(), (mean, expected)


def test_the_expected_l0_norm_is_the_frequency_of_open_masks(drawn):
    is_open = (drawn != 0).double()
    within(is_open.mean(0), open_probability(LOG_ALPHAS), is_open.std(0))


def test_the_expected_value_is_the_mean_of_the_masks(drawn):
    within(drawn.mean(0), expected_value(LOG_ALPHAS), drawn.std(0))


def test_the_expected_value_agrees_with_a_fine_grid_over_the_noise():
    """E[z] = ∫ z(u) du by the midpoint rule, in numpy from the definition."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    for log_alpha in LOG_ALPHAS.tolist():
        s = 1 / (1 + np.exp(-(np.log(u / (1 - u)) + log_alpha) / (2 / 3)))
        z = np.clip(s * 1.2 - 0.1, 0, 1)
        found = float(expected_value(torch.tensor(log_alpha)))
        assert found == pytest.approx(z.mean(), abs=1e-6)


def test_slopes_of_draws_average_to_the_slope_of_the_expected_value():
    """Learning follows single draws: their gradient must be unbiased."""
    log_alpha = LOG_ALPHAS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(expected_value(log_alpha).sum(), log_alpha)
    each = LOG_ALPHAS.expand(DRAWS, -1).clone().requires_grad_()
    noise = torch.rand(each.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (slopes,) = torch.autograd.grad(sample(each, noise).sum(), each)
    within(slopes.mean(0), expected, slopes.std(0))


def test_masks_are_often_exactly_0_or_1(drawn):
    closed, opened = (drawn == 0).double().mean(0), (drawn == 1).double().mean(0)
    assert drawn.min() == 0 and drawn.max() == 1
    assert closed[0] > 0.9 and opened[-1] > 0.9
    assert closed[3] == pytest.approx(float(opened[3]), abs=0.01)  # log α = 0: as often


def test_values_by_hand():
    half = torch.tensor(0.5, dtype=torch.float64)
    zero = torch.tensor(0.0, dtype=torch.float64)
    assert float(sample(zero, half)) == pytest.approx(0.5)  # s = σ(0)
    # log α = 2/3, u = ½: s = σ(1) = 0.7310586, z = 1.2 · s − 0.1
    assert float(sample(zero + 2 / 3, half)) == pytest.approx(0.77727030)
    # σ(⅔ · log 11) = 11^⅔ / (1 + 11^⅔)
    assert float(open_probability(zero)) == pytest.approx(11 ** (2 / 3) / (1 + 11 ** (2 / 3)))
    assert float(expected_value(zero)) == pytest.approx(0.5)


def test_open_and_closed_are_mirror_images():
    """γ and 1 − ζ are equal, so that a mask by −log α is one minus a mask by log α."""
    torch.testing.assert_close(expected_value(-LOG_ALPHAS), 1 - expected_value(LOG_ALPHAS))


def test_noise_at_its_ends_gives_numbers():
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    log_alpha = torch.zeros(2, dtype=torch.float64).requires_grad_()
    found = sample(log_alpha, ends)
    found.sum().backward()
    assert found.tolist() == [0.0, 1.0]
    assert log_alpha.grad is not None and torch.isfinite(log_alpha.grad).all()
