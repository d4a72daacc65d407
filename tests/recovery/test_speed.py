"""A bench on the recovery page and on the card, against the bench's own file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.bench.energy import energy_figures
from nemo_bielik.errors import DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.recovery.speed import speed_figure, speed_section
from nemo_bielik.recovery.stage import RecoveryConfig, recover

RATIO = {"median": 1.496, "lowest": 1.48, "highest": 1.51, "of_repeats": [1.48, 1.496, 1.51]}


def spread(middle: float) -> dict[str, float]:
    return {"p50": middle, "p90": middle + 1, "p99": middle + 2, "mean": middle}


def bench(complete: bool = True) -> dict[str, Any]:
    """Return a ``bench.json`` with the report's Table 16 as its figures."""
    models = {
        role: {
            "requests": 8,
            "output_tokens_per_second": speed,
            "ttft_ms": spread(first),
            "tpot_ms": spread(token),
            "itl_ms": spread(token),
            "request_latency_ms": spread(10 * token),
            "energy": None,
            "rounds": [],
        }
        for role, speed, first, token in (("teacher", 54.3, 34, 18.5), ("student", 81.2, 38, 12.3))
    }
    case = {
        "concurrency": 1,
        "prompt_tokens": 128,
        "output_tokens": 64,
        "models": models,
        "ratios": {"output_tokens_per_second": RATIO},
        "roofline": {
            "fitted_on_teacher": {
                "student_tpot_ms": 12.36,
                "measured_student_tpot_ms": 12.32,
                "miss_percent": 0.3,
            },
            "note": "The first token is another matter.",
        },
        "notes": ["student: <b>a note</b>"],
    }
    return {
        "version": 1,
        "complete": complete,
        "failure": None if complete else "the server died",
        "models": {"teacher": {"name": "big"}, "student": {"name": "small"}},
        "environment": {
            "machine": {"gpus": [], "cores": 2, "cpu": "Some CPU"},
            "servers": {"big": {"kind": "stub", "version": "1"}},
        },
        "cases": [case],
    }


@pytest.fixture
def page_and_card(
    evaluation: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[str, str]]:
    """Return a function from a bench to the recovery page and the card that it stands on."""

    def make(found: dict[str, Any], **hashes: str) -> tuple[str, str]:
        folder = tmp_path / "bench"
        folder.mkdir()
        (folder / "bench.json").write_text(json.dumps(found), encoding="utf-8")
        if hashes:
            Manifest(stage="bench", config={}, inputs=hashes).save(folder)
        config = RecoveryConfig(
            teacher=evaluation("teacher", "1111", fingerprint="a" * 64),
            students=[evaluation("student", "1101", fingerprint="b" * 64)],
            output=tmp_path / "recovery",
            bench=folder,
        )
        recover(config)
        read = [config.output / name for name in ("recovery.html", "README.md")]
        return read[0].read_text(encoding="utf-8"), read[1].read_text(encoding="utf-8")

    return make


def test_the_page_leads_with_the_ratio_of_throughputs(page_and_card):
    page, card = page_and_card(bench())
    assert '<b data-figure="key.speed">1.50 ×</b>' in page
    assert "By the bandwidth that the teacher reaches, the student takes 12.36 ms a token" in page
    assert "measured 12.32 (+0.3 %). The first token is another matter." in page
    assert "<b>a note</b>" not in page
    assert "| 1 at a time, 128 tokens in, 64 out | output tokens/s | 54.3 | 81.2 | 1.496 |" in card
    assert "On 2 cores of Some CPU, stub 1" in card
    lines = card.splitlines()
    heads = [place - 1 for place, line in enumerate(lines) if line.startswith("|---")]
    assert len(heads) >= 3 and all(lines[head - 1] == "" for head in heads)  # else no table
    assert "1 at a time, 128 tokens in, 64 out: By the bandwidth" in card  # the roofline
    assert "student: \\<b\\>a note" in card


def test_energy_and_its_co2_stand_on_both(page_and_card):
    """3.6 MJ are a kWh: at 600 g a kWh 600 g, for a million tokens."""
    found = bench()
    energy = energy_figures(3.6e6, 10**6, "rated power", 600.0)
    found["cases"][0]["models"]["student"]["energy"] = energy
    for text in page_and_card(found):
        assert "student: 3.6 J a token (rated power); 600 g CO₂e in all" in text
        assert "600 g a million tokens at 600 g a kWh" in text


def test_cases_of_one_concurrency_have_figures_of_their_own(page_and_card):
    found = bench()
    found["cases"].append({**found["cases"][0], "prompt_tokens": 1024})
    page, _ = page_and_card(found)
    names = re.findall(r'data-figure="(speed\.[^"]+)"', page)
    assert len(names) == len(set(names)) > 0


def test_what_was_not_measured_to_the_end_says_so(page_and_card):
    page, card = page_and_card(bench(complete=False))
    assert "Not all was measured: the server died" in page
    assert "not all was measured: the server died" in card


def test_another_students_speed_is_refused(page_and_card, tmp_path):
    with pytest.raises(
        DataError, match=r"its student small \(hash cccccccccccc\) is not the model"
    ):
        page_and_card(bench(), teacher="a" * 64, student="c" * 64)
    assert not (tmp_path / "recovery").exists()


def test_the_evaluated_models_speed_needs_no_remark(page_and_card):
    page, card = page_and_card(bench(), teacher="a" * 64, student="b" * 64)
    assert "Not checked" not in page and "Not checked" not in card


def test_what_a_server_answered_is_marked_as_not_checked(page_and_card):
    found = bench()
    found["models"]["student"]["url"] = "http://host:8000/v1"
    page, card = page_and_card(found, teacher="a" * 64, student="small")
    for text in (page, card):
        assert (
            "Not checked to be the evaluated model: student (no hash to compare)"
            in text.replace("\\", "")
        )


def test_without_a_bench_there_is_no_section():
    assert speed_section(None) is None
    assert speed_figure(None) == []


def test_a_directory_without_a_bench_is_refused(evaluation, tmp_path):
    config = RecoveryConfig(
        teacher=evaluation("teacher", "1111"),
        students=[evaluation("student", "1101")],
        output=tmp_path / "recovery",
        bench=tmp_path / "nothing",
    )
    with pytest.raises(DataError, match=r"nothing/bench.json"):
        recover(config)
    assert not config.output.exists()
