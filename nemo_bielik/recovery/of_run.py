"""Intervals of a whole run's recoveries, for its summary: over the choice of test items."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.stage import ITEMS_NAME
from nemo_bielik.recovery.aggregation import OVERALL, Rules
from nemo_bielik.recovery.gather import compare_stages, measured_baselines, open_stages
from nemo_bielik.runs import TEACHER, Run

_ALL = (OVERALL, "", "")


def run_intervals(
    run: Run, evaluations: dict[str, list[str]], baselines: Sequence[str], first: str
) -> dict[str, Any] | None:
    """Return the 95 % interval of every kind's recovery above the baseline, and of `first`'s lead.

    `evaluations` maps a kind of model to the names of its evaluations, `baselines` names theirs.
    The lead is `first`'s recovery less each other kind's, on the same draws. None where the
    evaluations hold no items or the teacher knows none of them.
    """
    names = [name for kind in evaluations.values() for name in kind]
    paths = [run.evaluation(name) for name in names]
    if not all((path / ITEMS_NAME).is_file() for path in (run.evaluation(TEACHER), *paths)):
        return None
    labels = [kind for kind, own in evaluations.items() for _ in own]
    teacher, students = open_stages(run.evaluation(TEACHER), paths, labels)
    rules = Rules(baselines=measured_baselines([Path(run.evaluation(name)) for name in baselines]))
    try:
        found, _ = compare_stages(teacher, students, rules)
    except DataError:  # a toy run's teacher may get nothing right at all
        return None
    above = {one.label: one.found[_ALL].above for one in found if _ALL in one.found}
    known = {label: estimate for label, estimate in above.items() if estimate}
    leads = {label: known[first] - one for label, one in known.items() if first in known}
    return {
        "confidence": rules.bootstrap.confidence,
        "recovery_percent": {
            label: rules.bootstrap.interval(estimate) for label, estimate in known.items()
        },
        "lead_points": {
            label: {"points": lead.value, "interval": rules.bootstrap.interval(lead)}
            for label, lead in leads.items()
            if label != first
        },
    }
