"""How many tokens a candidate needs, told from its short trials before money is spent."""

import math
from collections.abc import Sequence
from typing import Any

from nemo_bielik.search.curves import LEAST_POINTS, Interval, fit
from nemo_bielik.search.trial import Trial

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


def forecast_trial(trial: Trial, until: int) -> dict[str, Any] | None:
    """Return what a trial's validations up to step `until` predict; None where they are too few."""
    run, record = trial.config, trial.record()
    per_step = run.global_batch_size * run.sequence_length
    points = [(float(s * per_step), kl) for s, kl in record.validations.items() if s <= until]
    last = run.optim.min_lr if run.optim.decay == "cosine" else run.optim.max_lr
    return forecast(points, record.kl(0), run.tokens, min(1.0, last / record.rate(until)))


def forecast_in_words(name: str, told: dict[str, Any] | None) -> list[str]:
    """Return the forecast for the candidate called `name`, two lines."""
    if told is None:
        return [
            f"no forecast for {name}: it needs {LEAST_POINTS} validations before the last rung; "
            "lower recovery.eval_interval"
        ]
    (low, kl, high), (least, share, most) = told["at_budget"]["kl"], told["at_budget"]["recovery"]
    furthest = f"over {FURTHEST * told['from_tokens']:,.0f}"
    ends = {
        float(part): [furthest if end is None else f"{end:,.0f}" for end in of]
        for part, of in told["tokens_for"].items()
    }
    needed = [f"{part:.0%} {of[1]} ({of[0]} to {of[2]})" for part, of in ends.items()]
    return [
        f"forecast for {name} from {told['from_points']} validations up to "
        f"{told['from_tokens']:,.0f} tokens: KL {kl:.4g} ({low:.4g}–{high:.4g}) after "
        f"{told['budget_tokens']:,}, recovery {share:.1%} ({least:.1%}–{most:.1%})",
        f"tokens for a recovery of {'; '.join(needed)}",
    ]


def _ends(interval: Interval) -> list[float | None]:
    ends = (interval.low, interval.middle, interval.high)
    return [end if math.isfinite(end) else None for end in ends]
