"""BFCL's and EuroEval's own files, in the formats that `external` names, as suites."""

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.external import read_bfcl, read_euroeval
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.stage import RecoveryConfig, recover


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def put_category(
    project: Path, category: str, wrong: set[int], count: int = 5, model: str = "m", group="live"
) -> None:
    """Write what `bfcl generate` and `bfcl evaluate` leave of one category."""
    ids = [f"{category}_{number}" for number in range(count)]
    results = [{"id": name, "result": "[f(x=1)]", "latency": 0.1} for name in ids]
    header = {
        "accuracy": (count - len(wrong)) / count,
        "correct_count": count - len(wrong),
        "total_count": count,
    }
    failed = [{"id": ids[n], "test_category": category, "valid": False} for n in sorted(wrong)]
    name = f"BFCL_v4_{category}"
    write_lines(project / "result" / model / group / f"{name}_result.json", results)
    write_lines(project / "score" / model / group / f"{name}_score.json", [header, *failed])


def euroeval_record(
    dataset: str, raw: list[float], model: str = "m", metric: str = "mcc", version: str = "18.3.0"
) -> dict[str, Any]:
    """Return one line of euroeval_benchmark_results.jsonl, as far as it matters."""
    iterations = [{metric: value, "accuracy": 0.9, "failed_instances": []} for value in raw]
    mean = 100 * sum(raw) / len(raw)
    results = [
        {
            "evaluation_name": f"test_{name}",
            "source_data": {"dataset_name": dataset, "source_type": "hf_dataset"},
            "score_details": {"score": score},
        }
        for name, score in ((metric, mean), ("accuracy", 90.0))
    ]
    details = {
        "dataset": dataset,
        "languages": '["pl"]',
        "task": "sentiment-classification",
        "few_shot": "true",
        "validation_split": "false",
        "raw_results": json.dumps(iterations),
    }
    return {
        "schema_version": "0.2.1",
        "model_info": {"name": model, "id": model},
        "eval_library": {"name": "euroeval", "version": version, "additional_details": details},
        "evaluation_results": results,
    }


def test_an_entry_of_bfcl_is_right_unless_it_failed(tmp_path):
    put_category(tmp_path, "live_simple", wrong={1, 3})
    put_category(tmp_path, "simple_python", wrong=set(), count=2, group="non_live")
    put_category(tmp_path, "format_sensitivity", wrong={0})
    found = read_bfcl(tmp_path, None)
    assert found.version == "BFCL_v4"
    assert {name: (task["score"], task["items"]) for name, task in found.tasks.items()} == {
        "live_simple": (0.6, 5),
        "simple_python": (1.0, 2),
    }
    scores = [item["score"] for item in found.items if item["task"] == "live_simple"]
    assert scores == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert {item["category"] for item in found.items} == {"live", "non live"}


def test_conversations_that_fill_a_memory_are_no_entries(tmp_path):
    put_category(tmp_path, "memory_kv", wrong={0}, count=2, group="agentic/memory/kv")
    path = tmp_path / "result/m/agentic/memory/kv/BFCL_v4_memory_kv_result.json"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"id": "memory_kv_prereq_0-customer-0", "result": []}) + "\n")
    assert read_bfcl(tmp_path, None).tasks["memory_kv"]["items"] == 2


def test_the_metric_of_euroeval_is_a_datasets_first(tmp_path):
    path = tmp_path / "euroeval_benchmark_results.jsonl"
    old = euroeval_record("polemo2", [0.9])
    records = [old, euroeval_record("other", [1.0], model="n"), euroeval_record("polemo2", [0, 1])]
    write_lines(path, records)
    found = read_euroeval(path, "m")
    assert found.version == "euroeval 18.3.0, few-shot, test"
    (task,) = found.tasks.values()
    assert (task["metric"], task["score"], task["items"]) == ("mean mcc", 0.5, 2)
    assert [item["item"] for item in found.items] == ["iteration 0", "iteration 1"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda score: score.write_text("{}\n"), "counts None of None right"),
        (lambda score: score.write_text(""), "counts None of None right"),
        (lambda score: score.write_text("["), "line 1 is not JSON"),
        (lambda score: score.unlink(), "holds no scores"),
    ],
)
def test_scores_that_do_not_fit_are_refused(tmp_path, wrong, said):
    put_category(tmp_path, "live_simple", wrong={1})
    wrong(tmp_path / "score/m/live/BFCL_v4_live_simple_score.json")
    with pytest.raises(DataError, match=said) as caught:
        read_bfcl(tmp_path, None)
    assert "\n" not in str(caught.value)


def test_which_of_several_models_must_be_named(tmp_path):
    put_category(tmp_path, "live_simple", wrong={1})
    put_category(tmp_path, "live_simple", wrong={1, 2}, model="n")
    with pytest.raises(DataError, match="holds results of m, n; name one with external_model"):
        read_bfcl(tmp_path, None)
    with pytest.raises(DataError, match="'o' is none of them"):
        read_bfcl(tmp_path, "o")
    assert read_bfcl(tmp_path, "n").tasks["live_simple"]["score"] == 0.6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_info": None}, "has no model_info; give what euroeval 18 or later wrote"),
        ({"evaluation_results": []}, "has no evaluation_results"),
        ({"eval_library": {"additional_details": {"dataset": 1}}}, "dataset is 1; it must be text"),
    ],
)
def test_another_format_is_refused(tmp_path, change, said):
    path = tmp_path / "results.jsonl"
    write_lines(path, [euroeval_record("polemo2", [0.5]) | change])
    with pytest.raises(DataError, match=rf"line 1: {said}"):
        read_euroeval(path, None)


def test_recovery_is_computed_from_them(suite_model, tmp_path):
    """BFCL: 3 of 5 against 4 of 5; EuroEval: the mean of 0.5 / 1 and 0.2 / 0.4 and 0.9 / 0.9."""
    outputs = []
    for name, wrong, scores in (
        ("teacher", {0}, (1, 0.4, 0.9)),
        ("student", {0, 2}, (0.5, 0.2, 0.9)),
    ):
        put_category(tmp_path / name, "live_simple", wrong=wrong)
        path = tmp_path / name / "euroeval.jsonl"
        write_lines(path, [euroeval_record(f"d{n}", [s, s]) for n, s in enumerate(scores)])
        outputs.append(tmp_path / f"{name}-evaluation")
        evaluate(
            EvaluateConfig(
                model=suite_model,
                output=outputs[-1],
                bfcl=tmp_path / name,
                euroeval=path,
            )
        )
    assert set(read_evaluation(outputs[0]).suites) == {"bfcl", "euroeval"}
    recover(
        RecoveryConfig(
            teacher=outputs[0],
            students=[outputs[1]],
            labels=["student"],
            output=tmp_path / "recovery",
        )
    )
    found = json.loads((tmp_path / "recovery/results.json").read_text(encoding="utf-8"))
    ratios = {
        row["suite"]: row["recovery_percent"] for row in found["rows"] if row["level"] == "suite"
    }
    assert ratios["bfcl"] == pytest.approx(75.0)
    assert ratios["euroeval"] == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)
