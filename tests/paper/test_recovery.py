"""The report's Table 4 comes out of its Tables 5 to 15; what does not is named."""

import json

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.paper.recovery import PaperConfig, paper_tables, print_paper, rebuild
from nemo_bielik.planner.roofline import fitted_bandwidth, seconds_per_token


def test_every_benchmark_and_the_mean_of_the_nine_come_out_as_printed() -> None:
    found = rebuild()
    assert len(found["rows"]) == 9
    for row in found["rows"]:
        assert row["recovery_percent"] == row["printed_percent"], row["benchmark"]
    assert found["overall_percent"] == found["printed_overall_percent"] == 90.1


def test_the_euroeval_average_is_the_printed_one_to_its_last_digit() -> None:
    from nemo_bielik.paper.recovery import benchmark_recovery

    euroeval = next(one for one in paper_tables()["benchmarks"] if one["name"] == "EuroEval")
    assert benchmark_recovery(euroeval) == pytest.approx(91.38, abs=0.005)


def test_contradictions_are_named() -> None:
    said = rebuild()["contradictions"]
    assert "Table 12, summarisation, ROUGE-L: 98.80 % where 98.76 % is printed" in said
    assert sum(line.startswith("Table 12, ") for line in said) == 1
    assert any("6 of 12 rows lie below 90 %" in line for line in said)


def test_other_tables_agree_with_themselves() -> None:
    tables = paper_tables()
    quantized = tables["quantization"]
    for name, score, printed in quantized["rows"]:
        change = 100 * (score / quantized["unquantized"] - 1)
        assert change == pytest.approx(printed, abs=0.006), name
    speed = tables["speed"]
    gain = speed["student"]["tokens_per_second"] / speed["teacher"]["tokens_per_second"] - 1
    assert 100 * gain == pytest.approx(speed["printed_gain_percent"], abs=0.05)
    assert tables["stages"]["rows"][-1][2] == quantized["unquantized"]


def test_the_students_time_per_token_follows_from_the_teachers() -> None:
    """Fitted on the teacher alone, the roofline meets the student's 12.32 ms within 3 %."""
    speed = paper_tables()["speed"]
    reached = fitted_bandwidth(BIELIK_11B_V3, "bf16", speed["teacher"]["tpot_ms"] / 1e3)
    predicted = seconds_per_token(BIELIK_MINITRON_7B, "bf16", reached) * 1e3
    assert predicted == pytest.approx(speed["student"]["tpot_ms"], rel=0.03)
    assert 0.5e12 < reached < 1.792e12  # below what the card's memory can do


def test_the_command_prints_it_for_people_and_machines(capsys) -> None:
    print_paper(PaperConfig(paper=True))
    text = capsys.readouterr().out
    assert "mean of the nine" in text and "contradicts itself" in text
    print_paper(PaperConfig(paper=True, json=True))
    found = json.loads(capsys.readouterr().out)
    assert {row["benchmark"] for row in found["rows"]} >= {"FLORES", "BFCL"}
    assert found["overall_percent"] == 90.1
