"""Hard-concrete masks: random gates between 0 and 1 that are often exactly 0 or 1, yet have slopes.

Louizos et al., "Learning Sparse Neural Networks through L0 Regularization" (2018), as Xia et al.,
"Sheared LLaMA" (2023), use it; the report's equation 7 with β = 2/3, γ = −0.1, ζ = 1.1. With u
uniform in (0, 1),

    s = σ((log u − log(1 − u) + log α) / β),    z = clamp(s · (ζ − γ) + γ, 0, 1).

All functions work elementwise on tensors of any shape and are differentiable in log α.
"""

import math

import numpy as np
import torch
from torch import Tensor

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
#: Gauss-Legendre points for `expected_value`; 24 leave an error of about 1e-13.
_POINTS = 24
_SMALLEST = 1e-6


def sample(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Return masks z drawn with `uniform`, values in [0, 1) of the same shape."""
    noise = torch.logit(uniform, eps=_SMALLEST)  # u is kept off 0 and 1, where it is infinite
    gate = torch.sigmoid((noise + log_alpha) / BETA)
    return (gate * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return P(z ≠ 0) = σ(log α − β log(−γ/ζ)), the unit's share of the expected L0 norm."""
    return _exceeds(log_alpha, 0.0)


def expected_value(log_alpha: Tensor) -> Tensor:
    """Return E[z] = ∫₀¹ P(z > t) dt, by quadrature in float64."""
    nodes, weights = np.polynomial.legendre.leggauss(_POINTS)
    thresholds, shares = (nodes + 1) / 2, weights / 2
    total = torch.zeros_like(log_alpha, dtype=torch.float64)
    for threshold, share in zip(thresholds.tolist(), shares.tolist(), strict=True):
        total = total + share * _exceeds(log_alpha.double(), threshold)
    return total


def _exceeds(log_alpha: Tensor, threshold: float) -> Tensor:
    """Return P(z > threshold) for a threshold in [0, 1)."""
    gate = (threshold - GAMMA) / (ZETA - GAMMA)
    return torch.sigmoid(log_alpha - BETA * math.log(gate / (1 - gate)))
