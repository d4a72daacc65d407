"""Ratios, spreads and notes from rounds written by hand."""

from pathlib import Path

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.bench.config import BenchConfig, Case
from nemo_bielik.bench.metrics import RequestTimes
from nemo_bielik.bench.results import case_results, ratios
from nemo_bielik.bench.rounds import SavedRound
from nemo_bielik.planner.roofline import bytes_per_token

MS = 1_000_000
CASE = Case(1, 8, 3)


def saved(role: str, repeat: int, token_ms: int, first_ms: int = 100, **changes: str) -> SavedRound:
    """A round of one request of three tokens."""
    times = tuple((first_ms + n * token_ms) * MS for n in range(3))
    return SavedRound(CASE.name, role, repeat, [RequestTimes(0, times, 3, 8)], **changes)


def test_ratios_are_of_one_repeat_each_and_spread_over_them() -> None:
    rounds = [
        *(saved("teacher", n, 100) for n in range(3)),
        saved("student", 0, 50),
        saved("student", 1, 80),
        saved("student", 2, 60),
    ]
    found = ratios(rounds)
    assert found["tpot_ms"] == {
        "median": 0.6, "lowest": 0.5, "highest": 0.8, "of_repeats": [0.5, 0.8, 0.6]
    }  # fmt: skip
    assert found["ttft_ms"]["median"] == 1.0
    # 3 tokens in 100 + 2 · 100 ms against 100 + 2 · 60 ms
    assert found["output_tokens_per_second"]["of_repeats"][2] == round(300 / 220, 4)


def test_a_repeat_that_one_did_not_finish_is_in_no_ratio() -> None:
    rounds = [saved("teacher", 0, 100), saved("student", 0, 50, failure="died")]
    assert ratios(rounds) == {}
    assert ratios([saved("teacher", 0, 100)]) == {}


def test_broken_rounds_are_listed_and_left_out_and_short_answers_noted() -> None:
    config = BenchConfig(output=Path("o"), model="m", url="h", output_tokens=(5,))
    case = Case(1, 8, 5)
    rounds = [saved("model", 0, 100), saved("model", 1, 500, failure="died")]
    found = case_results(config, case, rounds, {"model": None}, {"model": "bf16"})
    figures = found["models"]["model"]
    assert figures["requests"] == 1 and figures["tpot_ms"]["p50"] == 100
    assert [row["status"] for row in figures["rounds"]] == ["complete", "broken off"]
    assert found["notes"] == [
        "model: answers have 3 tokens on average, 5 were asked",
        "model: 1 round(s) broke off and are not in the figures",
    ]
    assert found["roofline"] is None and figures["energy"] is None


def test_a_roofline_stands_beside_one_request_at_a_time_only() -> None:
    config = BenchConfig(
        output=Path("o"), model="m", student="s", url="h", output_tokens=(3,), device="H200"
    )
    archs = {"teacher": BIELIK_11B_V3, "student": BIELIK_MINITRON_7B}
    precisions = {"teacher": "bf16", "student": "bf16"}
    rounds = [saved("teacher", 0, 100), saved("student", 0, 50)]
    found = case_results(config, CASE, rounds, archs, precisions)["roofline"]
    fitted = found["fitted_on_teacher"]
    read = [bytes_per_token(arch, "bf16", CASE.context) for arch in archs.values()]
    predicted = 100 * read[1] / read[0]
    assert fitted["student_tpot_ms"] == pytest.approx(predicted, abs=1e-3)
    assert fitted["miss_percent"] == pytest.approx(100 * (predicted / 50 - 1), abs=0.01)
    assert found["teacher"]["least_tpot_ms"] == pytest.approx(1e3 * read[0] / 4.8e12, abs=1e-3)
    assert "first token is not predicted" in found["note"]

    many = Case(2, 8, 3)
    assert case_results(config, many, rounds, archs, precisions)["roofline"] is None
    mixed = precisions | {"student": "fp8"}  # another format reaches another share
    found = case_results(config, CASE, rounds, archs, mixed)["roofline"]
    assert "fitted_on_teacher" not in found and found["student"]["efficiency"] > 0
