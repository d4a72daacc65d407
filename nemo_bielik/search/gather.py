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
from nemo_bielik.search.tokens_needed import forecast_in_words, recovery
from nemo_bielik.search.trial import curves
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
        "model": str(search.first_trial(selected).config.output),
        "rungs": schedule.rows(),
        "rounds": [_with_front(one, rows) for one in decisions.rounds],
        "leads": [{**asdict(lead), "is_level": lead.is_level} for lead in leads(last["kl"])],
        "forecast": _forecast(search, selected),
        "cost": {
            "tokens": trained,
            "exhaustive_tokens": exhaustive,
            "share": trained / exhaustive,
            "training_seconds": sum(row["seconds"] for row in rows),
        },
        "candidates": rows,
    }
    return finite(found)  # type: ignore[no-any-return]


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
        words = "; ".join(breach.words for breach in reasons)
        verdict = Verdict(SUB_OPTIMAL, words, {"limits": [asdict(breach) for breach in reasons]})
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


def _forecast(search: "Search", selected: str) -> dict[str, Any] | None:
    """Return what the rungs before the last one predicted for the selected shape, and its end."""
    told, trial = search.forecast(selected), search.first_trial(selected)
    return told and {**told, "came_to": trial.record().kl(trial.config.iters)}


def finite(value: Any) -> Any:
    """Return `value` with None where a number is infinite or none: JSON holds neither."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
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
            *_forecast_lines(found),
            f"{cost['tokens']:,} tokens trained, {cost['share']:.1%} of the "
            f"{cost['exhaustive_tokens']:,} for all to the end",
            f"selected: {found['selected']} ({found['model']})",
        ]
    )


def _forecast_lines(found: dict[str, Any]) -> list[str]:
    told = found["forecast"]
    if told is None:
        return []
    return [*forecast_in_words(found["selected"], told), f"it came to {told['came_to']:.4g}", ""]


def _mean(row: dict[str, Any], name: str) -> str:
    values = [trial[name] for trial in row["trials"]]
    return f"{fmean(values):.4f}" if values and None not in values else "–"
