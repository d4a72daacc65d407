"""The report's Table 4 comes out of its Tables 5 to 15; what does not is named."""

import json

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.errors import ConfigError
from nemo_bielik.paper.recovery import PaperConfig, benchmark_recovery, print_paper, rebuild
from nemo_bielik.paper.tables import paper_tables
from nemo_bielik.planner.roofline import fitted_bandwidth, seconds_per_token


def test_every_benchmark_and_the_mean_of_the_nine_come_out_as_printed() -> None:
    found = rebuild()
    assert len(found["rows"]) == 9
    for row in found["rows"]:
        assert row["recovery_percent"] == row["printed_percent"], row["benchmark"]
    assert found["overall_percent"] == found["printed_overall_percent"] == 90.1


def test_the_euroeval_average_is_the_printed_one_to_its_last_digit() -> None:
    euroeval = next(one for one in paper_tables()["benchmarks"] if one["name"] == "EuroEval")
    assert benchmark_recovery(euroeval) == pytest.approx(91.38, abs=0.005)


def test_the_parts_of_a_benchmark_are_there_too() -> None:
    parts = {row["benchmark"]: row["parts"] for row in rebuild()["rows"]}
    assert parts["FLORES"]["to_polish"] == round(100 * 15.74 / 18.54, 2)
    assert parts["INCLUDE-base-44"] == {"average": 88.58, "polish": round(100 * 59.3 / 69.0, 2)}
    assert parts["EuroEval"]["Named Entity Recognition, micro F1"] == 101.31
    assert len(parts["BFCL"]) == 7 and len(parts["EuroEval"]) == 12


def test_contradictions_are_named() -> None:
    said = rebuild()["contradictions"]
    assert "Table 12, Summarization, ROUGE-L: 98.80 % where 98.76 % is printed" in said
    assert sum(line.startswith("Table 12, ") for line in said) == 1
    for part in (
        "6 of 12 rows lie below 90 %",
        "11.2 B parameters, which counts both embeddings (11.17 B)",
        "34.4 % fewer, where the text has 33.4 %",
        "Table 7 gives them 3.54 and 3.03",
        "in Table 9 3 models score higher",
        "94.50 % in Non-Live Multiple AST",
        "EXP_009 unstable",
    ):
        assert sum(part in line for line in said) == 1, part


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
    assert list(found["tables"]) == [str(number) for number in range(4, 17)]


def test_one_table_is_shown_for_people_and_machines(capsys) -> None:
    print_paper(PaperConfig(paper=True, table=14))
    assert "Pruning & Distillation    60.04   50.67" in capsys.readouterr().out
    print_paper(PaperConfig(paper=True, table=16, json=True))
    assert json.loads(capsys.readouterr().out)["rows"][1][1] == 81.41
    with pytest.raises(ConfigError, match="tables of results are 4, 5"):
        PaperConfig(paper=True, table=17)
