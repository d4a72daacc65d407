"""Loss curves as power laws, L(t) = floor + scale · t^(−exponent), with honest intervals.

Few noisy points fix a curve badly, so no single curve is trusted: for every exponent of a grid the
best floor and scale (both at least 0) follow by least squares, and all exponents that explain the
points about as well (profile likelihood, an F test) take part in every prediction, each with the
spread that least squares gives it.

The rate of learning is that of the points. Where it falls later, as a cosine does, a run ends
lower: what the noise of single steps adds to a loss is proportional to the rate (Mandt et al.,
"Stochastic gradient descent as approximate Bayesian inference", 2017), and a fitted floor is such
noise and true floor in unknown parts. So the low end of a prediction may let the whole floor shrink
with the rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

from nemo_bielik.artifact_files import Float64
from nemo_bielik.errors import DataError

#: Fewer points fix no curve of three parameters.
LEAST_POINTS = 6
_EXPONENTS = np.geomspace(0.05, 3.0, 200)
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A prediction and what it may lie between, at 95 %."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class _Law:
    """One exponent's least-squares curve; `spread` is the covariance of (floor, scale)."""

    exponent: float
    floor: float
    scale: float
    error: float
    spread: Float64

    def at(self, t: float) -> tuple[float, float]:
        """Return the curve and its standard deviation at `t`, in units of the last point's."""
        power = np.array([1.0, t**-self.exponent])
        return self.floor + self.scale * power[1], math.sqrt(max(power @ self.spread @ power, 0.0))


@dataclass(frozen=True)
class Curve:
    """What a few points say of a whole curve.

    Attributes:
        last: the last point's place; curves are fitted in units of it.
        laws: all that explain the points, the best first.
        quantile: of Student's t, for the points' number less three.
    """

    last: float
    laws: tuple[_Law, ...]
    quantile: float

    def at(self, t: float, rate_left: float = 1.0) -> Interval:
        """Return the prediction at `t`; losses are never below 0.

        Args:
            rate_left: the rate of learning at `t` as a share of the last point's. The middle and
                the high end are for a rate that stays.
        """
        found = [law.at(t / self.last) for law in self.laws]
        low = min(
            value - (1 - rate_left) * law.floor - self.quantile * deviation
            for law, (value, deviation) in zip(self.laws, found, strict=True)
        )
        high = max(value + self.quantile * deviation for value, deviation in found)
        return Interval(max(low, 0.0), found[0][0], high)

    def until(self, loss: float, most: float, rate_left: float = 1.0) -> Interval:
        """Return where the curve comes down to `loss`; infinite if not before `most`."""
        places = np.geomspace(self.last / 1e3, most, 600)
        bands = [self.at(float(place), rate_left) for place in places]

        def first(values: Sequence[float]) -> float:
            below = [p for p, value in zip(places, values, strict=True) if value <= loss]
            return float(below[0]) if below else math.inf

        return Interval(
            *(first([getattr(band, end) for band in bands]) for end in ("low", "middle", "high"))
        )


def fit(points: Sequence[tuple[float, float]]) -> Curve:
    """Return the curve through (t, loss) points, t above 0 and ascending.

    Raises `DataError` for fewer than `LEAST_POINTS`.
    """
    if len(points) < LEAST_POINTS:
        raise DataError(f"{len(points)} points of a loss curve; a fit needs {LEAST_POINTS}")
    t, losses = (np.array(column, float) for column in zip(*points, strict=True))
    last = float(t[-1])
    laws = sorted((_law(t / last, losses, c) for c in _EXPONENTS), key=lambda law: law.error)
    degrees = len(points) - 3
    quantile = student_quantile(_CONFIDENCE, degrees)
    # a perfect fit leaves room for rounding alone
    worst = laws[0].error * (1 + quantile**2 / degrees) + 1e-12 * float(losses @ losses)
    return Curve(last, tuple(law for law in laws if law.error <= worst), quantile)


def _law(t: Float64, losses: Float64, exponent: float) -> _Law:
    design = np.stack([np.ones_like(t), t**-exponent], axis=1)
    floor, scale = np.linalg.lstsq(design, losses, rcond=None)[0]
    if scale < 0:  # a curve that rises: the best that does not is flat
        floor, scale = losses.mean(), 0.0
    elif floor < 0:
        floor, scale = 0.0, design[:, 1] @ losses / (design[:, 1] @ design[:, 1])
    residuals = losses - design @ np.array([floor, scale])
    error = float(residuals @ residuals)
    spread = error / (len(t) - 3) * np.linalg.pinv(design.T @ design).astype(np.float64)
    return _Law(float(exponent), float(floor), float(scale), error, spread)


def student_quantile(confidence: float, degrees: int) -> float:
    """Return the two-sided quantile of Student's t (Cornish and Fisher's expansion).

    Within 2 % from three degrees of freedom on.
    """
    z, n = NormalDist().inv_cdf((1 + confidence) / 2), degrees
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third


def binned(points: Sequence[tuple[float, float]], bins: int = 10) -> list[tuple[float, float]]:
    """Return the means of points in `bins` stretches, each as long as the others in log t.

    Every step of training has a loss of its own text; the mean of many is a point of the curve.
    """
    points = [point for point in points if point[0] > 0]
    if not points:
        return []
    edges = np.geomspace(points[0][0], points[-1][0] * (1 + 1e-9), bins + 1)[1:]
    groups: list[list[tuple[float, float]]] = [[] for _ in edges]
    for point in points:
        groups[int(np.searchsorted(edges, point[0], side="left"))].append(point)
    return [(fmean(t for t, _ in some), fmean(x for _, x in some)) for some in groups if some]
