"""The report's tables agree with themselves, and with what its text says of them.

The report is not in the repository. Its sums and means are: a figure mistyped here breaks one.
"""

import itertools
from typing import Any

import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.paper.tables import benchmark_of, paper_tables, table

STUDENT, TEACHER = "Bielik-Minitron-7B-v3.0-Instruct", "Bielik-11B-v3.0-Instruct"
#: Models a table lists, counted in the report.
ROWS = {
    4: 10,
    5: 45,
    6: 35,
    7: 33,
    8: 30,
    9: 22,
    10: 11,
    11: 11,
    12: 12,
    13: 9,
    14: 4,
    15: 7,
    16: 2,
}


def column(number: int, name: str) -> dict[str, Any]:
    found = table(number)
    place = found["columns"].index(name)
    return {row[0]: row[place] for row in found["rows"]}


@pytest.mark.parametrize("number", range(4, 17))
def test_every_table_is_there_and_whole(number: int) -> None:
    found = table(number)
    assert len(found["rows"]) == ROWS[number]
    for row in found["rows"]:
        assert len(row) == len(found["columns"]), row
        texts = 2 if number in (4, 12) else 1
        numbers = [cell for cell in row if not isinstance(cell, str)]
        assert len(numbers) == len(row) - texts, row
        for cell in numbers:
            assert cell is None or -20 < cell <= 685, row


@pytest.mark.parametrize("number", [5, 6, 7, 8, 9, 10, 11, 13])
def test_leaderboards_are_sorted_where_the_report_sorted_them(number: int) -> None:
    score = [row[2] for row in table(number)["rows"]]
    out_of_order = [pair for pair in itertools.pairwise(score) if pair[0] < pair[1]]
    as_printed = {7: [(3.07, 3.15)], 11: [(11.25, 11.34)]}
    assert out_of_order == as_printed.get(number, [])


def test_averages_of_cptub_are_those_of_their_columns() -> None:
    for row in table(7)["rows"]:
        _, _, overall, implicatures, *parts = row
        assert sum(parts[:3]) / 3 == pytest.approx(implicatures, abs=0.0101), row
        assert sum(parts) / 4 == pytest.approx(overall, abs=0.0101), row


def test_flores_averages_both_directions() -> None:
    for name, _, average, to_polish, from_polish in table(11)["rows"]:
        assert (to_polish + from_polish) / 2 == pytest.approx(average, abs=0.0051), name


def test_euroeval_prints_its_own_differences_and_mean() -> None:
    found = table(12)
    for row in found["rows"]:
        assert row[3] - row[2] == pytest.approx(row[4], abs=0.0101), row
    printed = [row[5] for row in found["rows"]]
    assert sum(printed) / 12 == pytest.approx(found["printed_average_percent"], abs=0.005)


def test_quantised_models_lose_what_the_text_says() -> None:
    scores = column(13, "average_percent")
    lost = {"Q6_K.gguf": 0.27, "Q8_0.gguf": 0.64, "Q4_K_M.gguf": 0.91, " FP8": 1.49, " NVFP4": 3.71}
    for name, percent in lost.items():
        own = next(score for model, score in scores.items() if model.endswith(name))
        assert 100 * (1 - own / scores[STUDENT]) == pytest.approx(percent, abs=0.006), name


def test_one_model_has_one_score_in_every_table_that_lists_it() -> None:
    first, again = column(5, "average"), column(13, "average_percent")
    for name in (STUDENT, TEACHER, "Mistral-7B-Instruct-v0.3", "Bielik-7B-Instruct-v0.1"):
        assert first[name] == again[name]
    assert table(14)["rows"][-1][2] == first[STUDENT]


@pytest.mark.parametrize(
    ("number", "name", "one", "other", "difference"),
    [
        (5, "average", STUDENT, "Qwen2.5-7B-Instruct", 7.53),
        (5, "average", STUDENT, "Mistral-7B-Instruct-v0.3", 14.72),
        (5, "average", "phi-4", STUDENT, 0.11),
        (8, "average_percent", TEACHER, STUDENT, 5.85),
        (8, "average_percent", STUDENT, "Bielik-7B-Instruct-v0.1", 14.62),
        (9, "average", STUDENT, "Bielik-4.5B-v3.0", 21.5),
        (14, "polish", "SFT", "Pruning & Distillation", 11.59),
        (16, "ttft_ms", "Bielik-minitron-7B-v3 (bf16)", "Bielik-11B-v3 (bf16)", 2.65),
    ],
)
def test_differences_are_those_of_the_text(
    number: int, name: str, one: str, other: str, difference: float
) -> None:
    scores = column(number, name)
    assert scores[one] - scores[other] == pytest.approx(difference, abs=1e-9)


def test_speed_is_table_16_by_name() -> None:
    speed = paper_tables()["speed"]
    assert speed["teacher"] == {"tokens_per_second": 54.42, "ttft_ms": 24.64, "tpot_ms": 18.28}
    gain = speed["student"]["tokens_per_second"] / speed["teacher"]["tokens_per_second"] - 1
    assert 100 * gain == pytest.approx(speed["printed_gain_percent"], abs=0.05)
    faster = 1 - speed["student"]["tpot_ms"] / speed["teacher"]["tpot_ms"]
    assert 100 * faster == pytest.approx(32.6, abs=0.05)  # the text's


def test_suites_find_their_benchmark() -> None:
    assert [benchmark_of(name)["table"] for name in ("belebele", "open-pl", "bfcl")] == [10, 5, 15]  # type: ignore[index]
    assert benchmark_of("minimal_pairs") is None


def test_a_table_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="3 is none of them"):
        table(3)
