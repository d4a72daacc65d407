"""The score of EQ-Bench v2 (Paech 2023, arXiv:2312.06281) for emotions named in Polish.

A model rates four emotions from 0 to 10. Small differences from the reference weigh little, by an
S-shaped curve; the factor makes random ratings score 0 on average, and perfect ones 100.
"""

import ast
import math
import re
from typing import Any

_RATING = re.compile(r"^\W*(\w[\w ]*?)\W*:\s*(\d+)", re.MULTILINE)
_EMOTIONS = 4
_FACTOR = 0.7477


def score_first_ratings(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return ``{"eq_bench": score}`` of the first ratings; unreadable ones score 0."""
    reference = ast.literal_eval(doc["reference_answer"])
    wanted = {
        reference[f"emotion{number}"].strip().lower(): float(reference[f"emotion{number}_score"])
        for number in range(1, _EMOTIONS + 1)
    }
    found = _RATING.findall(results[0])[:_EMOTIONS]
    given = {name.strip().lower(): float(rating) for name, rating in found}
    if given.keys() != wanted.keys():
        return {"eq_bench": 0.0}
    penalty = sum(_penalty(abs(given[name] - wanted[name])) for name in wanted)
    return {"eq_bench": 10.0 * (10.0 - _FACTOR * penalty)}


def _penalty(difference: float) -> float:
    if difference == 0.0 or difference > 5.0:
        return difference
    return 6.5 / (1.0 + math.exp(-1.2 * (difference - 4.0)))
