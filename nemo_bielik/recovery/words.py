"""How a recovery, its interval and its limits are written, the same everywhere."""

import re
from collections.abc import Sequence
from typing import Any

from nemo_bielik.report.wording import NONE, number

PLAIN = "plain"
#: What is said of a task that its suite's own figure leaves out.
NOT_COUNTED = "not in the suite’s figure"
_PREFIXES = {PLAIN: "recovery", "above the baseline": "above_baseline"}


def prefix(ratio: str) -> str:
    """Return how the figures of a ratio are called in a row: ``recovery`` or ``above_baseline``."""
    return _PREFIXES[ratio]


def share(row: dict[str, Any], ratio: str) -> tuple[float | None, list[float] | None]:
    """Return the recovery of a row in percent by this ratio, and its interval."""
    name = prefix(ratio)
    return row[f"{name}_percent"], row[f"{name}_interval_percent"]


def interval_text(ends: Sequence[float] | None, digits: int = 1) -> str:
    """Return ``92.4 to 96.5``; "" where there is no interval."""
    return f"{number(ends[0], digits)} to {number(ends[1], digits)}" if ends else ""


def score_text(value: float | None) -> str:
    """Return a score in its own scale, with the digits that matter."""
    if value is None:
        return NONE
    return number(value, 2 if abs(value) >= 2 else 3)


def external_text(stage: dict[str, Any]) -> str:
    """Return what other packages call the model of a stage; "" where none ran a suite."""
    named = [f"{suite}: {', '.join(names)}" for suite, names in stage["external_models"].items()]
    return f"{'; '.join(named)} (as named there, hash not checked)" if named else ""


def limit_text(limit: int | str | None) -> str:
    """Return how a suite that was not run in full is marked; "" for one that was.

    Suites that another package ran say themselves what was left out.
    """
    if isinstance(limit, str):
        return f"limited: {limit}"
    return f"limited to {limit} items a task or part" if limit else ""


def limited_suites(found: dict[str, Any], names: Sequence[str]) -> str:
    """Return ``limited: a, b`` for those of the suites `names` that were not run in full."""
    limited = [name for name in names if found["suites"][name]["limit"]]
    return f"limited: {', '.join(limited)}" if limited else ""


def drawn_text(drawn: str | None) -> str:
    """Return what an interval is over, where it is not over items and the metric is not redone."""
    return f"interval over {drawn}, not items" if drawn else ""


def version_text(version: str) -> str:
    """Return a suite's version; of a hash its first twelve digits."""
    return (version[:12] if re.fullmatch("[0-9a-f]{64}", version) else version) or NONE


def overall_remark(row: dict[str, Any], found: dict[str, Any]) -> str:
    """Return what stands under a recovery over all suites: interval, what it lacks, limits."""
    ends = share(row, found["ratio"])[1]
    parts = (interval_text(ends), row["note"], limited_suites(found, row["suites"]))
    return "; ".join(filter(None, parts))


def absences(found: dict[str, Any], labels: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return what has no figure, not run or refused, and why; models of one reason together.

    `labels` keeps only what concerns these models.
    """
    models: dict[tuple[str, str, str], list[str]] = {}
    for gap in (*found["refused"], *found["not_run"]):
        if not labels or gap["model"] in labels:
            what = f"{gap['suite']}: {gap['task']}" if gap["task"] else gap["suite"]
            state = "refused" if gap["refused"] else "not run"
            models.setdefault((what, state, gap["reason"]), []).append(gap["model"])
    return [
        {"what": what, "state": state, "reason": reason, "model": ", ".join(dict.fromkeys(who))}
        for (what, state, reason), who in models.items()
    ]


def ratio_text(ratio: str, baselines: str) -> str:
    """Return what a recovery is, in words."""
    if ratio == PLAIN:
        return "plain ratio, student’s score / teacher’s score, as in the report"
    kind = "a measured one" if baselines == "measured" else "guessing"
    return f"above a baseline ({kind}), (student − baseline) / (teacher − baseline)"
