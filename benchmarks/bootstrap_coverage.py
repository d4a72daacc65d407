"""How often the interval of a recovery holds the truth: percentiles against BCa.

Pairs of models are simulated whose true recovery is known; each gets an interval by our paired
bootstrap and by scipy's, paired too, with the same resamples' number. Both say 95 %.

    python benchmarks/bootstrap_coverage.py --json
"""

import argparse
import json
import warnings
from typing import Any

import numpy as np
import scipy.stats

from nemo_bielik.evaluate.bootstrap import Bootstrap
from nemo_bielik.evaluate.metrics import METRICS
from nemo_bielik.planner.table import align

#: Items, teacher's accuracy, student's where the teacher is right, and where it is wrong.
CASES = (
    (30, 0.8, 0.85, 0.3),
    (100, 0.8, 0.85, 0.3),
    (400, 0.8, 0.85, 0.3),
    (100, 0.95, 0.95, 0.5),
    (100, 0.3, 0.6, 0.1),
)


def measure(case: tuple[int, float, float, float], pairs: int, resamples: int) -> dict[str, Any]:
    """Return the shares of intervals that hold the truth, and their mean widths in points."""
    items, accuracy, if_right, if_wrong = case
    truth = 100 * (accuracy * if_right + (1 - accuracy) * if_wrong) / accuracy
    generator = np.random.default_rng(items)
    held = {"percentile": 0, "BCa": 0}
    width = dict.fromkeys(held, 0.0)
    without = 0
    for number in range(pairs):
        teacher = generator.random(items) < accuracy
        student = generator.random(items) < np.where(teacher, if_right, if_wrong)
        ends = {
            "percentile": _ours(teacher, student, Bootstrap(resamples, 0.95, number)),
            "BCa": _scipy(teacher, student, resamples, number),
        }
        for name, interval in ends.items():
            if interval is None or not np.isfinite(interval).all():
                without += name == "BCa"
                continue
            held[name] += interval[0] <= truth <= interval[1]
            width[name] += interval[1] - interval[0]
    return {
        "items": items,
        "teacher_accuracy": accuracy,
        "true_recovery_percent": round(truth, 2),
        **{f"{name}_covers_percent": round(100 * held[name] / pairs, 1) for name in held},
        **{f"{name}_mean_width": round(width[name] / pairs, 2) for name in held},
        "without_BCa": without,
    }


def _ours(teacher: Any, student: Any, bootstrap: Bootstrap) -> tuple[float, float] | None:
    statistics = [
        METRICS["mean"].statistics([{"score": float(one)} for one in scores])
        for scores in (teacher, student)
    ]
    one, other = bootstrap.estimates("coverage", statistics)
    return bootstrap.interval(other.recovery(one))


def _scipy(teacher: Any, student: Any, resamples: int, seed: int) -> tuple[float, float]:
    found = scipy.stats.bootstrap(
        (teacher.astype(float), student.astype(float)),
        lambda t, s, axis: 100 * s.mean(axis=axis) / t.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400, help="simulated pairs a case")
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # pairs that give no BCa: counted
    rows = [measure(case, options.pairs, options.resamples) for case in CASES]
    if options.json:
        print(json.dumps({"pairs": options.pairs, "resamples": options.resamples, "rows": rows}))
        return
    head = list(rows[0])
    print(align(head, [[str(row[name]) for name in head] for row in rows]))


if __name__ == "__main__":
    main()
