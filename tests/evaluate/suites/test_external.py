"""Recovery from BFCL's and EuroEval's own files, against the report's tables and by hand."""

import json

import pytest

from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.paper.parts import bfcl_categories, euroeval_rows
from nemo_bielik.paper.tables import benchmark_of, benchmark_rows
from nemo_bielik.recovery.beside import beside_report
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.stage import RecoveryConfig, recover


@pytest.fixture
def recovered(suite_model, tmp_path):
    """Return a function that recovers from what `put(folder, role)` wrote for both models."""

    def run(put):
        outputs = []
        for role in ("teacher", "student"):
            folder = tmp_path / role
            put(folder, role)
            files = {"bfcl": folder, "euroeval": folder / "euroeval.jsonl"}
            given = {name: path for name, path in files.items() if path.exists()}
            outputs.append(tmp_path / f"{role}-evaluation")
            evaluate(EvaluateConfig(model=suite_model, output=outputs[-1], **given))
        assert set(read_evaluation(outputs[0]).suites) == set(given)
        recover(
            RecoveryConfig(
                teacher=outputs[0],
                students=[outputs[1]],
                labels=["student"],
                output=tmp_path / "recovery",
            )
        )
        return json.loads((tmp_path / "recovery/results.json").read_text(encoding="utf-8"))

    return run


def of_suites(found):
    return {
        row["suite"]: row["recovery_percent"] for row in found["rows"] if row["level"] == "suite"
    }


def test_the_reports_scores_give_the_reports_recoveries(
    recovered, put_bfcl, put_euroeval, tmp_path
):
    """Table 12 as EuroEval's metrics, Table 15 as BFCL's entries, and what has no place there.

    Of BFCL 200, 24 or 16 entries a category, which gives the columns exactly; live_simple and
    live_multiple, of 258 and 1,053.
    """
    counts = dict(zip(bfcl_categories(), (200, 200, 200, 258, 1053, 16, 24), strict=True))

    def put(folder, role):
        place = 1 if role == "teacher" else 2
        for category, row in zip(counts, benchmark_rows(benchmark_of("bfcl")), strict=True):
            right = round(row[place] * counts[category] / 100)
            assert 100 * right / counts[category] == pytest.approx(row[place], abs=0.006)
            put_bfcl(folder, category, set(range(right, counts[category])), counts[category])
        put_bfcl(folder, "irrelevance", {0} if role == "teacher" else {0, 1, 2, 3})
        rows = benchmark_rows(benchmark_of("euroeval"))
        records: dict[str, dict] = {
            "other": {"dataset": "o", "task": "word-in-context", "mcc": [0.5 / place] * 10}
        }
        for (task, metric), row in zip(euroeval_rows(), rows, strict=True):
            record = records.setdefault(task, {"dataset": task, "task": task})
            record[metric] = [row[place] / 100] * 10
        put_euroeval(folder / "euroeval.jsonl", *records.values())

    found = recovered(put)
    assert of_suites(found) == {
        "bfcl": pytest.approx(92.3, abs=0.05),
        "euroeval": pytest.approx(91.38, abs=0.05),
    }
    *suites, mean = beside_report(found)
    assert [row["differs"] for row in suites] == ["", ""]
    assert mean["differs"].replace("\xa0", " ") == "2 of 9; the report’s mean of these: 91.8 %"
    folder, suites = tmp_path / "recovery", found["suites"]
    assert found["teacher"]["external_models"] == {"bfcl": ["m"], "euroeval": ["m"]}
    said = "bfcl: m; euroeval: m (as named there, hash not checked)"
    for name in ("recovery.html", "README.md"):
        assert said in (folder / name).read_text(encoding="utf-8")
    left_out = [
        (row["suite"], row["name"], pytest.approx(row["recovery_percent"]))
        for row in found["rows"]
        if row["level"] == "task" and not suites[row["suite"]]["tasks"][row["name"]]["in_suite"]
    ]
    assert left_out == [("bfcl", "irrelevance", 25.0), ("euroeval", "o, mcc", 50.0)]


def test_what_is_not_the_reports_is_said_beside_its_figures(
    recovered, put_bfcl, put_euroeval, tmp_path
):
    """BFCL: 3 of 5 against 4 of 5; EuroEval: the mean of 0.5 / 1 and 0.3 / 0.4."""

    def put(folder, role):
        put_bfcl(folder, "live_simple", wrong={0} if role == "teacher" else {0, 2})
        scores = (1.0, 0.4) if role == "teacher" else (0.5, 0.3)
        put_euroeval(
            folder / "euroeval.jsonl",
            {"dataset": "a", "task": "summarization", "chr_f3pp": [scores[0]] * 2},
            {"dataset": "b", "task": "reading-comprehension", "f1": [scores[1]] * 2},
        )

    found = recovered(put)
    ratios = of_suites(found)
    assert ratios == {"bfcl": pytest.approx(75.0), "euroeval": pytest.approx(62.5)}
    differs = {row["suite"]: row["differs"] for row in beside_report(found)}
    assert differs["bfcl"].startswith(
        "other tasks or metrics than the report’s: 1 of its 7, without multiple; parallel;"
    )
    marks = {
        "bfcl": "limited: 5 of 258 entries of live_simple",
        "euroeval": "limited: 2 of 10 iterations of a; 2 of 10 iterations of b",
    }
    for name in ("recovery.html", "README.md"):
        text = (tmp_path / "recovery" / name).read_text(encoding="utf-8")
        assert all(mark in text.replace("\\", "") for mark in marks.values())
        assert text.count("interval over iterations, not items") == 3  # two tasks and their suite
    assert differs["euroeval"] == "other tasks or metrics than the report’s: none of its"
