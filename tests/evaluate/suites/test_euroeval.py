"""EuroEval's own file as a suite."""

import json
from pathlib import Path

import pytest

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.euroeval import read_euroeval

SENTIMENT = {"dataset": "polemo2", "task": "sentiment-classification"}


def test_every_metric_of_a_dataset_is_a_task(put_euroeval, tmp_path):
    path = tmp_path / "euroeval_benchmark_results.jsonl"
    put_euroeval(
        path,
        {**SENTIMENT, "mcc": [0.9], "macro_f1": [0.9]},
        {**SENTIMENT, "model": "n", "mcc": [1.0]},
        {**SENTIMENT, "mcc": [0.0, 1.0], "macro_f1": [0.5, 0.7]},  # the later counts
    )
    found = read_euroeval(path, "m")
    assert found.version == "euroeval 18.3.0, few-shot, test"
    assert {
        name: (task["metric"], task["score"], task["items"]) for name, task in found.tasks.items()
    } == {
        "polemo2, mcc": ("mean mcc", 0.5, 2),
        "polemo2, macro_f1": ("mean macro_f1", pytest.approx(0.6), 2),
    }
    items = [item["item"] for item in found.items if item["task"] == "polemo2, mcc"]
    assert items == ["iteration 0", "iteration 1"]


def test_the_figure_counts_the_rows_of_the_reports_table(put_euroeval, tmp_path):
    """Entities by both micro F1s, of which the report has one; summaries by another metric."""
    path = tmp_path / "results.jsonl"
    entities = {"dataset": "kpwr-ner", "task": "named-entity-recognition"}
    put_euroeval(
        path,
        {**SENTIMENT, "mcc": [1.0], "macro_f1": [1.0]},
        {**entities, "micro_f1_no_misc": [1.0], "micro_f1": [1.0]},
        {"dataset": "psc", "task": "summarization", "chr_f3pp": [1.0]},
        {"dataset": "poquad", "task": "reading-comprehension", "f1": [1.0]},
    )
    tasks = read_euroeval(path, None).tasks
    assert [name for name, task in tasks.items() if task["in_suite"]] == [
        "polemo2, mcc",
        "polemo2, macro_f1",
        "kpwr-ner, micro_f1",
    ]
    assert len(tasks) == 6


def test_datasets_of_one_category_are_one_row_a_metric(put_euroeval, tmp_path):
    path = tmp_path / "results.jsonl"
    german = {**SENTIMENT, "dataset": "sb10k"}
    put_euroeval(path, {**SENTIMENT, "mcc": [1.0], "macro_f1": [1.0]}, {**german, "mcc": [0.5]})
    rows = {name: task["row"] for name, task in read_euroeval(path, None).tasks.items()}
    assert rows["polemo2, mcc"] == rows["sb10k, mcc"] != rows["polemo2, macro_f1"]


def test_iterations_without_a_score_are_passed_over_as_upstream(put_euroeval, tmp_path):
    path = tmp_path / "results.jsonl"
    put_euroeval(path, {**SENTIMENT, "mcc": [0.5, None, float("nan")]})
    assert read_euroeval(path, None).tasks["polemo2, mcc"]["items"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"change": {"model_info": None}}, "has no model_info; give what euroeval 18 or later"),
        ({"change": {"evaluation_results": []}}, "has no evaluation_results"),
        ({"change": {"evaluation_results": [1]}}, "evaluation_name is None; it must be text"),
        ({"dataset": 1}, "dataset is 1; it must be text"),
        ({"mcc": []}, "has no raw_results"),
        ({"mcc": [None]}, "no iteration has a score of mcc"),
    ],
)
def test_another_format_is_refused(put_euroeval, tmp_path, change, said):
    path = tmp_path / "results.jsonl"
    put_euroeval(path, {**SENTIMENT, "mcc": [0.5], **change})
    with pytest.raises(DataError, match=rf"line 1: {said}"):
        read_euroeval(path, None)


def test_what_euroeval_itself_wrote_gives_its_scores():
    """Scores are on the metric's own scale; EuroEval's are in percent but for chrF, which is so."""
    path = Path(__file__).parent / "external/euroeval_benchmark_results.jsonl"
    found = read_euroeval(path, None)
    written = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        for result in record["evaluation_results"]:
            metric = result["evaluation_name"].removeprefix("test_")
            scale = 1 if metric.startswith("chr_f") else 100
            dataset = result["source_data"]["dataset_name"]
            written[f"{dataset}, {metric}"] = result["score_details"]["score"] / scale
    assert len(written) == 4
    assert {name: task["score"] for name, task in found.tasks.items()} == pytest.approx(written)
    assert found.tasks["psc, chr_f3pp"]["items"] == 3
    assert found.summary["limit"] == "3 of 10 iterations of psc"
    assert found.model == "some-model"
