"""From rounds to ``bench.json``: figures of every case, ratios, predictions, energy."""

import statistics
from collections.abc import Sequence
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.bench.config import BenchConfig, Case
from nemo_bielik.bench.energy import energy_figures
from nemo_bielik.bench.metrics import LATENCIES, summarize
from nemo_bielik.bench.prediction import (
    NOT_EXPLAINED,
    at_full_bandwidth,
    beside,
    predict_student,
)
from nemo_bielik.bench.rounds import SavedRound
from nemo_bielik.planner.cards import card_or_device

TEACHER, STUDENT, MODEL = "teacher", "student", "model"
RATIOS = ("output_tokens_per_second", *LATENCIES)


def case_results(
    config: BenchConfig,
    case: Case,
    rounds: Sequence[SavedRound],
    archs: dict[str, ModelArch | None],
    precisions: dict[str, str],
) -> dict[str, Any]:
    """Return the figures of one case from its rounds; broken-off ones are listed, not counted."""
    models = {}
    for role in archs:
        own = [one for one in rounds if one.role == role]
        whole = [one for one in own if not one.failure]
        models[role] = summarize([one.requests for one in whole]) | {
            "energy": _energy(whole, config.grid_intensity),
            "rounds": [_round_row(one) for one in own],
        }
    found = {
        "concurrency": case.concurrency,
        "prompt_tokens": case.prompt_tokens,
        "output_tokens": case.output_tokens,
        "models": models,
        "ratios": ratios(rounds),
        "roofline": _roofline(config, case, models, archs, precisions),
    }
    return found | {"notes": _notes(case, models)}


def ratios(rounds: Sequence[SavedRound]) -> dict[str, Any]:
    """Return student ÷ teacher of every repeat that both finished: median, lowest and highest.

    Latencies are compared by their medians.
    """
    pairs: dict[int, dict[str, dict[str, Any]]] = {}
    for one in rounds:
        if not one.failure:
            pairs.setdefault(one.repeat, {})[one.role] = summarize([one.requests])
    both = [pair for _, pair in sorted(pairs.items()) if {TEACHER, STUDENT} <= pair.keys()]
    found = {}
    for name in RATIOS:
        values = [
            _figure(pair[STUDENT], name) / _figure(pair[TEACHER], name)
            for pair in both
            if _figure(pair[TEACHER], name) and _figure(pair[STUDENT], name)
        ]
        if values:
            found[name] = {
                "median": round(statistics.median(values), 4),
                "lowest": round(min(values), 4),
                "highest": round(max(values), 4),
                "of_repeats": [round(value, 4) for value in values],
            }
    return found


def _figure(summary: dict[str, Any], name: str) -> float:
    value = summary.get(name)
    return float((value["p50"] if isinstance(value, dict) else value) or 0.0)


def _round_row(one: SavedRound) -> dict[str, Any]:
    summary = summarize([one.requests])
    return {
        "repeat": one.repeat,
        "status": "broken off" if one.failure else "complete",
        "failure": one.failure or None,
        "requests": summary["requests"],
        **{name: _figure(summary, name) or None for name in RATIOS},
        "load_average": one.load_average,
    }


def _energy(rounds: Sequence[SavedRound], grid_intensity: float | None) -> dict[str, Any] | None:
    joules = [one.joules for one in rounds if one.joules is not None]
    tokens = sum(request.output_tokens for one in rounds for request in one.requests)
    method = next((one.energy_method for one in rounds if one.energy_method), None)
    if not joules or len(joules) < len(rounds) or method is None:
        return None
    return energy_figures(sum(joules), tokens, method, grid_intensity)


def _roofline(
    config: BenchConfig,
    case: Case,
    models: dict[str, dict[str, Any]],
    archs: dict[str, ModelArch | None],
    precisions: dict[str, str],
) -> dict[str, Any] | None:
    """Return what memory bandwidth predicts; None where it does not apply or is not known."""
    if case.concurrency != 1:
        return None
    measured = {role: _figure(models[role], "tpot_ms") for role in models}
    found: dict[str, Any] = {}
    if config.device is not None:
        bandwidth = card_or_device(config.device).bandwidth
        found["device"] = config.device
        for role, arch in archs.items():
            if arch is not None and measured[role]:
                found[role] = at_full_bandwidth(
                    arch, precisions[role], bandwidth, measured[role], case.context
                )
    teacher, student = archs.get(TEACHER), archs.get(STUDENT)
    known = teacher is not None and student is not None
    if known and measured[TEACHER] and precisions[TEACHER] == precisions[STUDENT]:
        assert teacher is not None and student is not None
        predicted = predict_student(
            teacher, student, precisions[TEACHER], measured[TEACHER], case.context
        )
        if measured[STUDENT]:
            predicted = beside(predicted, measured[STUDENT])
        found["fitted_on_teacher"] = predicted
    return found | {"note": NOT_EXPLAINED} if found else None


def _notes(case: Case, models: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    for role, figures in models.items():
        given = figures.get("output_tokens_per_request")
        if given is not None and given < case.output_tokens:
            notes.append(
                f"{role}: answers have {given:g} tokens on average, {case.output_tokens} were asked"
            )
        if given is not None and figures["tokens_counted_by"] != ["usage"]:
            source = " and ".join(figures["tokens_counted_by"])
            notes.append(f"{role}: the server reports no usage; tokens are counted by {source}")
        if abs(figures.get("tokens_per_piece", 1.0) - 1) > 0.02:
            notes.append(
                f"{role}: a piece of text holds {figures['tokens_per_piece']:g} tokens on average; "
                "inter-token latencies are between pieces"
            )
        broken = sum(row["status"] != "complete" for row in figures["rounds"])
        if broken:
            notes.append(f"{role}: {broken} round(s) broke off and are not in the figures")
    return notes
