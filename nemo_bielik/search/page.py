"""The page of a search: the report's Tables 2 and 3 and its Figure 1, for the user's own model."""

from typing import Any

from nemo_bielik.pruning.select import PRUNABLE
from nemo_bielik.report.costs import command_line
from nemo_bielik.report.html import render_page
from nemo_bielik.report.wording import NONE, count, duration, number, percent, size_bytes
from nemo_bielik.search import drawings
from nemo_bielik.search.drawings import kind_of, mean
from nemo_bielik.search.verdicts import SELECTED

MEASURES = (
    (
        "KL",
        "Forward KL from the original to the candidate, nats a token, on held-out text that none "
        "was trained on; with a cached teacher over its likeliest tokens and the rest as one.",
    ),
    (
        "recovery",
        "1 − KL / KL right after the cut: the share of the cut’s damage that training made good.",
    ),
    (
        "gradient spike",
        "A step whose gradient norm, before clipping, is above {gradient_spike:g} times the median "
        "of the {window} steps before it. Spikes in two steps or more, and in more than "
        "{spike_share:.0%} of them: unstable.",
    ),
    (
        "loss spike",
        "A step whose loss is {loss_spike:g} deviations above the median of the {window} steps "
        "before it; a deviation is 1.4826 median absolute deviations. As many as above: unstable.",
    ),
    (
        "cannot win",
        "A power law through the losses so far predicts the end of the run; even the favourable "
        "end of its 95 % interval is above what the leader has reached.",
    ),
    (
        "ms a token, memory",
        "By the planner: every weight is read once a token, at the share of the bandwidth that "
        "the report’s Table 16 shows; bf16 weights and key/value cache. Nothing was timed.",
    ),
)


def render(found: dict[str, Any]) -> str:
    """Return the page of `found`, the content of ``search.json``."""
    return render_page("search/template.html", _context(found))


def _context(found: dict[str, Any]) -> dict[str, Any]:
    rows = found["candidates"]
    selected = next(row for row in rows if row["verdict"]["word"] == SELECTED)
    return {
        "model": found["settings"]["model"],
        "headline": _headline(found, selected),
        "key_figures": _key_figures(found, selected),
        "curves": drawings.loss_panel(found),
        "panels": [
            drawings.pareto_panel(found),
            drawings.ranks_panel(found),
            drawings.cut_panel(found),
            drawings.timeline_panel(found),
        ],
        "rounds": [one["name"] for one in found["rounds"]],
        "shapes": [_shape(row, found) for row in (found["source"], *rows)],
        "verdicts": [_verdict(row, found) for row in sorted(rows, key=_last)],
        "stability": [_stability(row) for row in rows if row.get("stability")],
        "leads": [_lead(lead, found) for lead in found["leads"]],
        "forecast": _forecast(found),
        "command": command_line("search", found["settings"]),
        "measures": [
            (name, words.format(**found["settings"]["judge"])) for name, words in MEASURES
        ],
    }


def _headline(found: dict[str, Any], selected: dict[str, Any]) -> str:
    return (
        f"Of {len(found['candidates'])} shapes {selected['name']} distils best: "
        f"{percent(selected['reduction_percent'])} fewer parameters"
    )


def _key_figures(found: dict[str, Any], selected: dict[str, Any]) -> list[dict[str, str]]:
    cost = found["cost"]
    recovered = selected["trials"][0]["recovery"]
    figures = (
        ("kl", "held-out KL of the selected shape", _number(mean(selected, "kl")), ""),
        (
            "recovery_percent",
            "of the cut’s damage made good",
            percent(100 * recovered) if recovered is not None else NONE,
            f"KL {_number(mean(selected, 'kl_after_cut'))} right after the cut",
        ),
        (
            "share",
            "of the tokens of training all to the end",
            percent(100 * cost["share"]),
            f"{count(cost['tokens'])} of {count(cost['exhaustive_tokens'])}",
        ),
        ("seconds", "of training, all trials", duration(cost["training_seconds"]), ""),
    )
    names = ("name", "label", "text", "remark")
    return [dict(zip(names, figure, strict=True)) for figure in figures]


def _shape(row: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the report's Table 2; a size that the original has is a dash, as there."""
    whole = found["source"]
    sizes = [
        f"{row[name]:,}" if row is whole or row[name] != whole[name] else "—" for name in PRUNABLE
    ]
    return {
        "name": row["name"],
        "kind": kind_of(row) if "verdict" in row else "teacher",
        "cells": [
            *sizes,
            f"{row['parameters']:,}",
            percent(row["reduction_percent"]),
            f"{1e3 * row['seconds_per_token']:.4g}",
            size_bytes(row["memory_bytes"]),
        ],
    }


def _verdict(row: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the report's Table 3, with the KL after every round and why."""
    by_round = [
        _number(_mean(one["kl"][row["name"]])) if row["name"] in one["kl"] else ""
        for one in found["rounds"]
    ]
    return {
        "name": row["name"],
        "kind": kind_of(row),
        "kl": by_round,
        "tokens": count(row["tokens"]),
        "word": row["verdict"]["word"],
        "reason": row["verdict"]["reason"],
    }


def _last(row: dict[str, Any]) -> tuple[int, int, float]:
    """The order of the table of verdicts: the selected, then by how far they came, and the KL."""
    kl = mean(row, "kl")
    return (
        row["verdict"]["word"] != SELECTED,
        -row["tokens"],
        kl if kl is not None else float("inf"),
    )


def _stability(row: dict[str, Any]) -> dict[str, Any]:
    worst = max(row["stability"], key=lambda one: one["gradient_spikes"] + one["loss_spikes"])
    cells = [
        str(worst["judged_steps"]),
        str(worst["gradient_spikes"]),
        f"{worst['largest_gradient']:.3g}",
        str(worst["loss_spikes"]),
        f"{worst['largest_loss']:.3g}",
        _number(worst["kl_after_cut"]),
        _number(worst["kl"]),
    ]
    return {"name": row["name"], "kind": kind_of(row), "cells": cells}


def _lead(lead: dict[str, Any], found: dict[str, Any]) -> str:
    says = {None: "one seed: how sure that is, nobody knows", True: "level", False: "clear"}
    margin = f" ± {lead['margin']:.3g}" if lead["margin"] is not None else ""
    return (
        f"{found['selected']} is {lead['mean']:.3g}{margin} nats ahead of {lead['name']} "
        f"({says[lead['is_level']]})"
    )


def _forecast(found: dict[str, Any]) -> dict[str, Any] | None:
    told = found["forecast"]
    if told is None:
        return None
    low, middle, high = told["at_budget"]["kl"]
    return {
        "from": f"{told['from_points']} validations up to {count(told['from_tokens'])} tokens",
        "budget": count(told["budget_tokens"]),
        "kl": f"{_number(middle)} ({_number(low)}–{_number(high)})",
        "came_to": _number(told["came_to"]),
        "rows": [
            [
                percent(100 * float(share), 0),
                *(count(end) if end else "not by then" for end in ends),
            ]
            for share, ends in told["tokens_for"].items()
        ],
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _number(value: float | None) -> str:
    return NONE if value is None else number(value, 4)
