"""The intervals of a run's summary, of answers worked out by hand."""

import json
from pathlib import Path

from nemo_bielik.manifest import Manifest
from nemo_bielik.recovery.of_run import run_intervals
from nemo_bielik.runs import Run

EVALUATIONS = {"distilled": ["distilled-seed1", "distilled-seed2"], "label_trained": ["labels"]}


def judged(run: Run, name: str, answers: str) -> None:
    """Write an evaluation by minimal pairs, as `bielik evaluate` does."""
    path = run.evaluation(name)
    path.mkdir(parents=True)
    accuracy = answers.count("1") / len(answers)
    (path / "results.json").write_text(json.dumps({"minimal_pairs_accuracy": accuracy}))
    Manifest(stage="evaluate", config={}).save(path)
    lines = [
        {"suite": "minimal_pairs", "group": "g", "sentence": f"s{n}", "score": float(answer)}
        for n, answer in enumerate(answers)
    ]
    (path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_recoveries_and_the_lead_above_the_better_baseline(tmp_path: Path) -> None:
    """Baseline 0.5, teacher 1: seeds of 8 and 6 of 8 recover 100 and 50 %, labels 50 %."""
    run = Run(tmp_path)
    for name, answers in {
        "teacher": "11111111",
        "distilled-seed1": "11111111",
        "distilled-seed2": "11111100",
        "labels": "11111100",
        "low": "11000000",
        "high": "11110000",
    }.items():
        judged(run, name, answers)
    found = run_intervals(run, EVALUATIONS, ("low", "high"), "distilled")
    assert found is not None
    assert found["lead_points"]["label_trained"]["points"] == 25.0
    # the lead is an eighth of 100 points for every drawn item of the last two: binomial (8, ¼)
    assert found["lead_points"]["label_trained"]["interval"] == (0.0, 62.5)
    low, high = found["recovery_percent"]["distilled"]
    assert (low, high) == (37.5, 100.0)


def test_a_teacher_that_knows_nothing_leaves_no_intervals(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("teacher", "distilled-seed1", "distilled-seed2", "labels"):
        judged(run, name, "00")
    assert run_intervals(run, EVALUATIONS, (), "distilled") is None


def test_without_items_there_are_no_intervals(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for name in ("teacher", "distilled-seed1", "distilled-seed2", "labels"):
        judged(run, name, "11")
    (run.evaluation("labels") / "items.jsonl").unlink()
    assert run_intervals(run, EVALUATIONS, (), "distilled") is None
