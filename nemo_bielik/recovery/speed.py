"""What `bielik bench` measured, as a recovery page and a model card show it."""

from collections.abc import Sequence
from typing import Any

from nemo_bielik.bench.results import STUDENT, TEACHER
from nemo_bielik.errors import DataError
from nemo_bielik.recovery.pairing import Stage
from nemo_bielik.report.figures import Figure
from nemo_bielik.report.wording import NONE, number

_MEASURES = (
    ("output tokens/s", "output_tokens_per_second"),
    ("time to first token, ms", "ttft_ms"),
    ("time per output token, ms", "tpot_ms"),
    ("inter-token latency, ms", "itl_ms"),
    ("request latency, ms", "request_latency_ms"),
)


def speed_section(speed: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the section of a bench (`nemo_bielik.bench.summary.summary`); None without one."""
    if speed is None:
        return None
    return {
        "where": ", ".join(filter(None, (speed["machine"], speed["server"]))),
        "models": "; ".join(f"{role}: {name}" for role, name in speed["models"].items()),
        "unchecked": _unchecked(speed["unchecked"]),
        "partial": "" if speed["complete"] else str(speed["failure"] or "not finished"),
        "cases": [_case(case) for case in speed["cases"]],
    }


def check_models(speed: dict[str, Any], teacher: Stage, student: Stage) -> None:
    """Write ``unchecked`` into `speed`: the roles whose model may be another than the evaluated.

    Raises `DataError` if a model was measured that is not the one that was evaluated.
    """
    speed["unchecked"] = []
    for role, stage in ((TEACHER, teacher), (STUDENT, student)):
        measured = speed["fingerprints"].get(role)
        evaluated = {one.fingerprint for one in stage.evaluations} - {""}
        if not measured or not evaluated:
            speed["unchecked"].append(role)
        elif measured not in evaluated:
            raise DataError(
                f"bench: its {role} {speed['models'][role]} (hash {measured[:12]}) is not the "
                f"model that was evaluated as {stage.label} ({min(evaluated)[:12]}); "
                "give a bench of the models that were evaluated"
            )


def _unchecked(roles: Sequence[str]) -> str:
    if not roles:
        return ""
    return f"Not checked to be the evaluated model: {' and '.join(roles)} (no hash to compare)."


def speed_figure(speed: dict[str, Any] | None) -> list[Figure]:
    """Return the headline: output tokens/s against the teacher in the first case that has them."""
    for case in (speed or {"cases": []})["cases"]:
        if found := case["ratios"].get("output_tokens_per_second"):
            text = f"{found['median']:.2f} ×"
            return [Figure("key.speed", text, _setting(case), "output tokens/s")]
    return []


def _case(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "setting": _setting(case),
        "rows": [_row(name, key, case) for name, key in _MEASURES],
        "remarks": [*_roofline(case["roofline"] or {}), *_energy(case["energy"]), *case["notes"]],
    }


def _setting(case: dict[str, Any]) -> str:
    asked = f"{case['prompt_tokens']} tokens in, {case['output_tokens']} out"
    return f"{case['concurrency']} at a time, {asked}"


def _identity(case: dict[str, Any]) -> str:
    return f"{case['concurrency']}.{case['prompt_tokens']}.{case['output_tokens']}"


def _row(name: str, key: str, case: dict[str, Any]) -> dict[str, Any]:
    ratio = case["ratios"].get(key)
    text = f"{ratio['median']:.3f}" if ratio else NONE
    spread = f"{ratio['lowest']:.3f} to {ratio['highest']:.3f}" if ratio else ""
    return {
        "name": name,
        "cells": [_value(case["models"].get(role, {}).get(key)) for role in (TEACHER, STUDENT)],
        "ratio": Figure(f"speed.{_identity(case)}.{key}", text, spread),
    }


def _value(found: Any) -> Figure:
    """Return a rate, or a latency's median with its tail."""
    if not isinstance(found, dict):
        return Figure("", _rounded(found) if found else NONE)
    tail = f"p90 {_rounded(found['p90'])}, p99 {_rounded(found['p99'])}"
    return Figure("", _rounded(found["p50"]), tail)


def _rounded(value: float) -> str:
    return number(value, 1 if value >= 10 else 2)


def _roofline(found: dict[str, Any]) -> list[str]:
    fitted = found.get("fitted_on_teacher")
    if not fitted:
        return []
    line = (
        f"By the bandwidth that the teacher reaches, the student takes "
        f"{fitted['student_tpot_ms']:.4g} ms a token"
    )
    if "miss_percent" in fitted:
        measured = f"{fitted['measured_student_tpot_ms']:.4g}"
        line += f"; measured {measured} ({fitted['miss_percent']:+.1f} %)"
    return [f"{line}. {found['note']}"]


def _energy(found: dict[str, Any]) -> list[str]:
    return [
        f"{role}: {one['joules_per_output_token']:.3g} J a token ({one['method']}){_co2(one)}."
        for role, one in found.items()
        if one
    ]


def _co2(energy: dict[str, Any]) -> str:
    """Return the grams of CO₂ equivalent; "" where the grid's intensity was not given."""
    if "grams_co2" not in energy:
        return ""
    return (
        f"; {energy['grams_co2']:.3g} g CO₂e in all, "
        f"{number(energy['grams_co2_per_million_output_tokens'], 0)} g a million tokens at "
        f"{energy['grid_grams_co2_per_kwh']:g} g a kWh"
    )
