"""How many tokens a candidate needs, told from its short trials before money is spent."""

import math
from collections.abc import Sequence
from typing import Any

from nemo_bielik.search.curves import LEAST_POINTS, Interval, fit

#: Shares of the cut's damage to be made good.
SHARES = (0.5, 0.75, 0.9, 0.95)
#: No prediction goes further than this many times what was trained: beyond, "not by then" is said.
FURTHEST = 100.0


def recovery(kl: float, kl_after_cut: float) -> float:
    """Return the share of the cut's damage that is made good: 1 − KL / KL right after the cut."""
    return 1 - kl / kl_after_cut


def forecast(
    points: Sequence[tuple[float, float]], kl_after_cut: float, budget: float, rate_left: float
) -> dict[str, Any] | None:
    """Return what held-out (tokens, KL) points predict; None where they are too few.

    ``at_budget``: KL and recovery after `budget` tokens. ``tokens_for``: share of the damage →
    tokens, None where that is further than `FURTHEST` times the last point. Each is low, middle
    and high end of an interval at 95 %; the middle is for a rate of learning that stays.

    Args:
        rate_left: the rate at the end of a run, as a share of that at the last point.
    """
    points = [point for point in points if point[0] > 0]
    if len(points) < LEAST_POINTS:
        return None
    curve, last = fit(points), points[-1][0]
    kl = curve.at(budget, rate_left)
    return {
        "from_tokens": last,
        "from_points": len(points),
        "budget_tokens": budget,
        "at_budget": {
            "kl": _ends(kl),
            "recovery": [recovery(end, kl_after_cut) for end in (kl.high, kl.middle, kl.low)],
        },
        "tokens_for": {
            f"{share:g}": _ends(curve.until((1 - share) * kl_after_cut, FURTHEST * last, rate_left))
            for share in SHARES
        },
    }


def _ends(interval: Interval) -> list[float | None]:
    ends = (interval.low, interval.middle, interval.high)
    return [end if math.isfinite(end) else None for end in ends]
