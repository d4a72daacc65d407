"""BFCL's own files as a suite."""

import json
from pathlib import Path

import pytest

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.bfcl import read_bfcl


def test_an_entry_is_right_unless_it_failed(put_bfcl, tmp_path):
    put_bfcl(tmp_path, "live_simple", wrong={1, 3})
    put_bfcl(tmp_path, "simple_python", wrong=set(), count=2, group="non_live")
    put_bfcl(tmp_path, "format_sensitivity", wrong={0})
    found = read_bfcl(tmp_path, None)
    assert found.version == "BFCL_v4, prompts of m, package version not told"
    assert {name: (task["score"], task["items"]) for name, task in found.tasks.items()} == {
        "live_simple": (0.6, 5),
        "simple_python": (1.0, 2),
    }
    scores = [item["score"] for item in found.items if item["task"] == "live_simple"]
    assert scores == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert {item["category"] for item in found.items} == {"live", "non live"}


def test_the_figure_counts_the_columns_of_the_reports_table(put_bfcl, tmp_path):
    for category in ("multiple", "live_parallel", "simple_java", "irrelevance", "multi_turn_base"):
        put_bfcl(tmp_path, category, wrong={0})
    tasks = read_bfcl(tmp_path, None).tasks
    assert {name for name, task in tasks.items() if task["in_suite"]} == {
        "multiple",
        "live_parallel",
    }


def test_the_figure_counts_all_where_none_of_those_columns_was_run(put_bfcl, tmp_path):
    for category in ("simple_java", "irrelevance"):
        put_bfcl(tmp_path, category, wrong={0})
    assert all(task["in_suite"] for task in read_bfcl(tmp_path, None).tasks.values())


def test_categories_that_were_run_in_part_are_a_limit(put_bfcl, tmp_path):
    """`bfcl evaluate --partial-eval` counts what is there, and its files do not say so."""
    put_bfcl(tmp_path, "live_parallel", wrong={0}, count=16)
    assert read_bfcl(tmp_path, None).limit is None
    put_bfcl(tmp_path, "live_simple", wrong={0}, count=5)
    put_bfcl(tmp_path, "multiple", wrong={0}, count=199, group="non_live")
    found = read_bfcl(tmp_path, None)
    assert found.summary["limit"] == (
        "5 of 258 entries of live_simple; 199 of 200 entries of multiple"
    )


def test_conversations_that_fill_a_memory_are_no_entries(put_bfcl, tmp_path):
    put_bfcl(tmp_path, "memory_kv", wrong={0}, count=2, group="agentic/memory/kv")
    path = tmp_path / "result/m/agentic/memory/kv/BFCL_v4_memory_kv_result.json"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "memory_kv_prereq_0-customer-0", "result": []}) + "\n")
    assert read_bfcl(tmp_path, None).tasks["memory_kv"]["items"] == 2


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda score: score.write_text("{}\n"), "counts None of None right"),
        (lambda score: score.write_text(""), "counts None of None right"),
        (lambda score: score.write_text("["), "line 1 is not JSON"),
        (lambda score: score.unlink(), "holds no scores"),
        (lambda score: score.rename(score.with_name("odd_score.json")), "its name is not BFCL's"),
    ],
)
def test_scores_that_do_not_fit_are_refused(put_bfcl, tmp_path, wrong, said):
    put_bfcl(tmp_path, "live_simple", wrong={1})
    wrong(tmp_path / "score/m/live/BFCL_v4_live_simple_score.json")
    with pytest.raises(DataError, match=said) as caught:
        read_bfcl(tmp_path, None)
    assert "\n" not in str(caught.value)


def test_which_of_several_models_must_be_named(put_bfcl, tmp_path):
    put_bfcl(tmp_path, "live_simple", wrong={1})
    put_bfcl(tmp_path, "live_simple", wrong={1, 2}, model="n")
    with pytest.raises(DataError, match="holds results of m, n; name one with external_model"):
        read_bfcl(tmp_path, None)
    with pytest.raises(DataError, match="'o' is none of them"):
        read_bfcl(tmp_path, "o")
    assert read_bfcl(tmp_path, "n").tasks["live_simple"]["score"] == 0.6


def test_what_bfcl_itself_wrote_gives_its_score():
    """Its own evaluation of a stub that answers three of sixteen questions wrongly."""
    found = read_bfcl(Path(__file__).parent / "external/bfcl", None)
    (task,) = found.tasks.values()
    assert (task["score"], task["items"], task["category"]) == (0.8125, 16, "live")
    wrong = [item["item"].split("-")[0] for item in found.items if not item["score"]]
    assert wrong == [f"live_parallel_{number}" for number in (1, 4, 11)]
    assert found.model == "speakleash_Bielik-11B-v2.3-Instruct"
