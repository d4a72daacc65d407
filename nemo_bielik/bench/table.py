"""The table that ``bielik bench`` prints."""

from typing import Any

from nemo_bielik.planner.table import align

_LATENCIES = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "itl_ms": "ITL"}
_PERCENTILES = ("p50", "p90", "p99")
_HEAD = ["", "tokens/s", *(f"{name} {p}" for name in _LATENCIES.values() for p in _PERCENTILES)]


def format_results(results: dict[str, Any]) -> str:
    """Return every case as a table with its ratios, prediction, energy and notes."""
    parts = [] if results["complete"] else [f"PARTIAL: {results['failure']}"]
    parts += [_case(case) for case in results["cases"]]
    parts.append(
        "TTFT: time to first token; TPOT: a request's mean time per output token after the first; "
        "ITL: gaps\nbetween single tokens; all in milliseconds. Ratios are student ÷ teacher, of "
        "medians (lowest to highest of the repeats)."
    )
    return "\n\n".join(parts)


def _case(case: dict[str, Any]) -> str:
    title = (
        f"{case['concurrency']} at a time, {case['prompt_tokens']} tokens in, "
        f"{case['output_tokens']} out"
    )
    rows = [
        [role, _number(figures["output_tokens_per_second"]), *_percentiles(figures)]
        for role, figures in case["models"].items()
        if figures["requests"]
    ]
    lines = [title, align(_HEAD, rows) if rows else "  nothing measured"]
    lines += _ratio_lines(case["ratios"])
    lines += _roofline_lines(case["roofline"] or {})
    for role, figures in case["models"].items():
        lines += _energy_lines(role, figures.get("energy"))
    return "\n".join([*lines, *(f"  note: {note}" for note in case["notes"])])


def _percentiles(figures: dict[str, Any]) -> list[str]:
    return [
        _number(figures[name][p]) if figures[name] else "-"
        for name in _LATENCIES
        for p in _PERCENTILES
    ]


def _ratio_lines(ratios: dict[str, Any]) -> list[str]:
    names = {"output_tokens_per_second": "tokens/s", **_LATENCIES}
    said = [
        f"{names[name]} {found['median']:.3f} ({found['lowest']:.3f}–{found['highest']:.3f})"
        for name, found in ratios.items()
        if name in names
    ]
    return [f"  student ÷ teacher: {', '.join(said)}"] if said else []


def _roofline_lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for role, one in found.items():
        if isinstance(one, dict) and "efficiency" in one:
            lines.append(
                f"  roofline of {found['device']}: {role} at least {one['least_tpot_ms']:.3g} ms a "
                f"token; {100 * one['efficiency']:.1f} % of the bandwidth reached"
            )
    fitted = found.get("fitted_on_teacher")
    if fitted:
        line = (
            f"  roofline fitted on the teacher ({fitted['bandwidth_reached'] / 1e9:.4g} GB/s): "
            f"student {fitted['student_tpot_ms']:.4g} ms a token predicted"
        )
        if "miss_percent" in fitted:
            line += (
                f", {fitted['measured_student_tpot_ms']:.4g} ms measured "
                f"({fitted['miss_percent']:+.1f} %)"
            )
        lines.append(line)
    return [*lines, f"  {found['note']}"] if lines else []


def _energy_lines(role: str, energy: dict[str, Any] | None) -> list[str]:
    if energy is None:
        return []
    line = (
        f"  energy, {role}: {energy['joules_per_output_token']:.4g} J a token, "
        f"{energy['watt_hours_per_million_output_tokens']:.4g} Wh a million ({energy['method']})"
    )
    if "grams_co2" in energy:
        line += (
            f"; {energy['grams_co2_per_million_output_tokens']:.4g} g CO₂e a million at "
            f"{energy['grid_grams_co2_per_kwh']:g} g/kWh"
        )
    return [line]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:.0f}"
