"""The plan of the report's own search, against sums by hand and the planner's own figures."""

import json
from typing import Any

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS
from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.layout_plan import LayoutPlanConfig, print_layouts
from nemo_bielik.search.limits import Limits
from nemo_bielik.search.plan import SearchPlanConfig, plan


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return plan(SearchPlanConfig(preset="paper"), BIELIK_11B_V3)


def test_all_ten_of_the_report_are_planned(found):
    assert [row["name"] for row in found["candidates"]] == list(EXPERIMENTS)
    sizes = {row["name"]: round(row["parameters"] / 1e9, 2) for row in found["candidates"]}
    # the report's Table 2 (exp-002 and exp-003 are misprinted there)
    assert sizes["exp-001"] == 8.28 and sizes["exp-009"] == 7.26 and sizes["exp-010"] == 7.35
    assert found["tokens"] == 8000 * 768 * 4096


def test_a_candidates_cost_is_that_of_the_layout_plan(found, capsys):
    print_layouts(
        LayoutPlanConfig(cluster="2x8xH200", student="exp-010", tokens=found["tokens"], json=True)
    )
    chosen = json.loads(capsys.readouterr().out)["chosen"]
    row = found["candidates"][-1]
    assert row["gpu_hours"] == pytest.approx(chosen["gpu_hours"], rel=1e-3)
    assert row["hours"] == pytest.approx(chosen["hours"], rel=1e-3)


def test_the_search_is_the_sum_of_its_rungs(found):
    """10 to step 1,000 (an eighth), 4 to 2,800, 2 to 8,000; validations are 200 steps apart."""
    assert [tuple(rung.values()) for rung in found["rungs"]] == [
        (0, 1000, 10, 10_000),
        (1000, 2800, 4, 7_200),
        (2800, 8000, 2, 10_400),
    ]
    hours = sorted(row["hours"] for row in found["candidates"])
    search = found["search"]
    assert search["exhaustive_hours"] == pytest.approx(sum(hours))
    assert search["share_of_tokens"] == pytest.approx(27_600 / 80_000)
    cheapest = sum(hours) / 8 + 0.225 * sum(hours[:4]) + 0.65 * sum(hours[:2])
    assert search["hours"][0] == pytest.approx(cheapest)
    assert search["hours"][1] == pytest.approx(0.345 * sum(hours))
    # 0.345 of ten runs of 48 to 72 hours
    assert found["report"]["hours"] == pytest.approx([165.6, 248.4])
    assert found["report"]["saved_hours"] == pytest.approx([314.4, 471.6])


def test_what_is_too_slow_is_not_counted():
    limits = Limits(max_milliseconds=5.2)
    found = plan(SearchPlanConfig(preset="paper", limits=limits), BIELIK_11B_V3)
    slow = [row["name"] for row in found["candidates"] if row["breaches"]]
    assert slow == ["exp-001", "exp-005", "exp-006"]
    assert found["rungs"][0]["entrants"] == 7


def test_the_command_says_it_in_words(capsys):
    assert main(["search", "--preset", "paper", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "10 runs take 480–720 hours" in said
    assert "exp-010" in said


def test_a_plan_of_nothing_says_so(capsys):
    assert main(["search", "--plan", "--preset=paper", "limits.max_parameters=1e9"]) == 0
    said = capsys.readouterr().out
    assert "No candidate is within the limits." in said
    # 40 × (2 × 4096² + 2 × 4096 × 1024 + 3 × 4096 × 11264 + 2 × 4096) + 32128 × 4096 + 4096
    assert "exp-010: too large: 7,346,130,944 parameters, limit 1,000,000,000" in said


def test_without_names_and_limits_there_is_nothing_to_search():
    with pytest.raises(ConfigError, match="no candidates are named and nothing limits them"):
        plan(SearchPlanConfig(), BIELIK_11B_V3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"preset": "report"}, "preset is 'report'; allowed are none, paper"),
        ({"preset": "paper", "candidates": ["exp-001"]}, "both are given"),
        ({"factor": 1}, "factor is 1"),
        ({"finalists": 0}, "finalists is 0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(changes, said):
    with pytest.raises(ConfigError, match=said):
        SearchPlanConfig(**changes)
