"""A finished search as one value, the content of ``search.json``, and in a few lines."""

import math
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nemo_bielik.config_text import to_plain
from nemo_bielik.planner.parameters import reduction_percent
from nemo_bielik.planner.table import align
from nemo_bielik.pruning.select import PRUNABLE
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.decisions import Decisions
from nemo_bielik.search.limits import cost
from nemo_bielik.search.ranking import leads, pareto_front
from nemo_bielik.search.tokens_needed import forecast, recovery
from nemo_bielik.search.trial import Trial, curves
from nemo_bielik.search.verdicts import SELECTED, SUB_OPTIMAL, Verdict

if TYPE_CHECKING:
    from nemo_bielik.search.stage import Search


def gather(search: "Search", decisions: Decisions) -> dict[str, Any]:
    """Return everything of a finished search; what is no number is None."""
    run, schedule = search.config.recovery, search.schedule
    rows = [_row(search, decisions, candidate) for candidate in search.candidates]
    last = decisions.rounds[-1]
    selected = last["order"][0]
    trained = sum(row["tokens"] for row in rows)
    exhaustive = schedule.exhaustive_steps * run.global_batch_size * run.sequence_length
    exhaustive *= len(search.config.seeds)
    found = {
        "settings": to_plain(search.config),
        "source": _figures(search, Candidate("source", search.source)),
        "selected": selected,
        "model": str(search.trials(_named(search, selected))[0].config.output),
        "rungs": schedule.rows(),
        "rounds": [_with_front(one, rows) for one in decisions.rounds],
        "leads": [{**asdict(lead), "is_level": lead.is_level} for lead in leads(last["kl"])],
        "forecast": _forecast(search, decisions, selected),
        "cost": {
            "tokens": trained,
            "exhaustive_tokens": exhaustive,
            "share": trained / exhaustive,
            "training_seconds": sum(row["seconds"] for row in rows),
        },
        "candidates": rows,
    }
    return _finite(found)  # type: ignore[no-any-return]


def _named(search: "Search", name: str) -> list[Candidate]:
    return [candidate for candidate in search.candidates if candidate.name == name]


def _figures(search: "Search", candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        **{size: getattr(candidate.arch, size) for size in PRUNABLE},
        **asdict(cost(candidate.arch, search.config.limits)),
        "reduction_percent": reduction_percent(search.source, candidate.arch),
        "max_lr": candidate.max_lr,
    }


def _row(search: "Search", decisions: Decisions, candidate: Candidate) -> dict[str, Any]:
    row = _figures(search, candidate)
    if candidate.name in search.refused:
        reasons = search.refused[candidate.name]
        verdict = Verdict(SUB_OPTIMAL, "; ".join(reasons), {"limits": reasons})
        return {**row, "verdict": verdict.row(), "trials": [], "tokens": 0, "seconds": 0.0}
    reached = decisions.reached.get(candidate.name, 0)
    trials = []
    for trial in search.trials([candidate]):
        record = trial.record()
        tokens = [t for t, _ in record.losses(0, reached)]
        trials.append(
            {
                "seed": trial.seed,
                "step": record.last_step(reached),
                "kl_after_cut": record.kl(0),
                "kl": record.kl(reached),
                "recovery": recovery(record.kl(reached), record.kl(0)),
                "tokens": max(tokens, default=0),
                "seconds": record.seconds_at(reached),
                "curves": curves(record, reached),
            }
        )
    return {
        **row,
        "verdict": decisions.verdicts[candidate.name].row(),
        "stability": [asdict(one) for one in decisions.stability.get(candidate.name, [])],
        "trials": trials,
        "tokens": sum(trial["tokens"] for trial in trials),
        "seconds": sum(trial["seconds"] for trial in trials),
    }


def _with_front(one: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a round with its front over KL, time a token and memory, all at equal tokens."""
    figures = {row["name"]: (row["seconds_per_token"], row["memory_bytes"]) for row in rows}
    found = {name: (fmean(kl), *figures[name]) for name, kl in one["kl"].items()}
    return {**one, "pareto_front": pareto_front(found)}


def _forecast(search: "Search", decisions: Decisions, selected: str) -> dict[str, Any] | None:
    """Return what the rungs before the last one predicted for the selected shape."""
    rungs = search.schedule.rungs
    if len(rungs) < 2:
        return None
    return forecast_trial(search.trials(_named(search, selected))[0], rungs[-2].last_step)


def forecast_trial(trial: Trial, until: int) -> dict[str, Any] | None:
    """Return what a finished trial's validations up to step `until` predict, and what it came to.

    None where they are too few.
    """
    run, record = trial.config, trial.record()
    per_step = run.global_batch_size * run.sequence_length
    points = [(float(s * per_step), kl) for s, kl in record.validations.items() if s <= until]
    rate_left = min(1.0, record.rate(run.iters) / record.rate(until))
    found = forecast(points, record.kl(0), run.tokens, rate_left)
    return found and {**found, "came_to": record.kl(run.iters)}


def _finite(value: Any) -> Any:
    """Return `value` with None where a number is infinite or none: JSON holds neither."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def in_words(found: dict[str, Any]) -> str:
    """Return the verdicts as a table and the sums under it; the selected one comes first."""
    head = ["", "parameters", "fewer", "KL after the cut", "KL", "tokens", "verdict"]
    places = {SELECTED: 0}
    rows = sorted(
        found["candidates"], key=lambda r: (places.get(r["verdict"]["word"], 1), -r["tokens"])
    )
    cells = [
        [
            row["name"],
            f"{row['parameters']:,}",
            f"{row['reduction_percent']:.1f} %",
            _mean(row, "kl_after_cut"),
            _mean(row, "kl"),
            f"{row['tokens']:,}",
            row["verdict"]["word"],
        ]
        for row in rows
    ]
    reasons = [
        f"{row['name']}: {row['verdict']['word']}: {row['verdict']['reason']}" for row in rows
    ]
    cost = found["cost"]
    return "\n".join(
        [
            align(head, cells),
            "",
            *reasons,
            "",
            f"{cost['tokens']:,} tokens trained, {cost['share']:.1%} of the "
            f"{cost['exhaustive_tokens']:,} for all to the end",
            f"selected: {found['selected']} ({found['model']})",
        ]
    )


def _mean(row: dict[str, Any], name: str) -> str:
    values = [trial[name] for trial in row["trials"]]
    return f"{fmean(values):.4f}" if values and None not in values else "–"
