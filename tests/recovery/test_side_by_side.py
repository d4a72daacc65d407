"""Two runs side by side: differences by hand, paired intervals, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik import cli

Write = Callable[..., Path]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any]]:
    """Return a function that runs ``bielik compare``: status, and the object or the error."""

    def command(*words: object) -> tuple[int, Any]:
        status = cli.main(["compare", *map(str, words), "--json"])
        said = capsys.readouterr()
        return status, json.loads(said.out) if status == 0 else said.err.strip()

    return command


def recovery(output: Path, teacher: Path, *students: Path, words: tuple[str, ...] = ()) -> Path:
    listed = ",".join(map(str, students))
    arguments = [f"teacher={teacher}", f"students=[{listed}]", f"output={output}", "resamples=200"]
    cli.main(["recovery", *arguments, *words])
    return output


def test_two_evaluations(evaluation: Write, compare: Any) -> None:
    """7 and 8 of 8 right: +⅛. A resample gains binomial (8, ⅛) items, at most 3 in 98.9 %."""
    status, found = compare(evaluation("a", "11111110"), evaluation("b", "11111111"))
    assert status == 0 and found["kind"] == "score"
    row = next(row for row in found["rows"] if row["level"] == "suite")
    assert (row["first"], row["second"], row["difference"]) == (0.875, 1.0, 0.125)
    assert row["interval"] == pytest.approx([0.0, 0.375])


def test_a_score_of_zero_can_be_compared(evaluation: Write, compare: Any) -> None:
    status, found = compare(evaluation("a", "00"), evaluation("b", "00"))
    assert (status, found["rows"][0]["interval"]) == (0, [0.0, 0.0])


def test_two_recoveries_of_one_student(
    evaluation: Write, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = evaluation("t", "11111111")
    first = recovery(
        tmp_path / "r1", teacher, evaluation("x", "11110000"), words=("labels=[small]",)
    )
    second = recovery(
        tmp_path / "r2", teacher, evaluation("y", "11111000"), words=("labels=[small]",)
    )
    capsys.readouterr()
    status, found = compare(first, second)
    assert status == 0 and found["kind"] == "recovery_percent"
    overall = next(row for row in found["rows"] if row["level"] == "overall")
    assert (overall["student"], overall["first"], overall["second"]) == ("small", 50.0, 62.5)
    assert overall["interval"] == pytest.approx([0.0, 37.5])  # binomial (8, ⅛)


def test_figures_of_different_tasks_are_not_set_against_each_other(
    evaluation: Write, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One task answered alike twice, another that the second run's student lost: no difference."""
    teacher, words = evaluation("t", {"easy": "1111", "hard": "1111"}), ("labels=[small]",)
    whole = evaluation("x", {"easy": "1110", "hard": "1000"})
    lost = evaluation("y", {"easy": "1110", "hard": "1"})
    first = recovery(tmp_path / "r1", teacher, whole, words=words)
    second = recovery(tmp_path / "r2", teacher, lost, words=words)
    capsys.readouterr()
    status, found = compare(first, second)
    levels = [(row["level"], row["name"], row["difference"]) for row in found["rows"]]
    assert (status, levels[0]) == (0, ("task", "easy", 0.0))
    assert not {"suite", "overall"} & {level for level, *_ in levels}
    reasons = {gap["reason"] for gap in found["without"] if gap["suite"] == "quiz"}
    assert "the runs' figures are of different tasks" in reasons


def test_limits_and_what_was_not_run_are_told(
    evaluation: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    task = {"tasks": {"a": {"items": [{"item": "0", "score": 1.0}]}}, "limit": 1}
    idle = {"status": "not run", "reason": "no data", "tasks": {}}
    paths = [evaluation(name, suites={"one": task, "two": idle}) for name in ("a", "b")]
    assert cli.main(["compare", *map(str, paths)]) == 0
    said = capsys.readouterr().out
    assert said.count("holds 0; limited to 1 items a task or part") == 2
    assert "two, first: no data" in said and "two, second: no data" in said


def test_what_cannot_be_compared_is_one_line(
    evaluation: Write, compare: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = evaluation("a", "11"), evaluation("b", "11", version="v2")
    made = recovery(tmp_path / "r", one, one, words=("labels=[small]",))
    capsys.readouterr()
    assert compare(one) == (2, "error: 1 runs; give two directories to compare")
    assert compare(one, made) == (
        2,
        f"error: {one} is of stage 'evaluate', {made} of 'recovery'; give two evaluations or two "
        "recoveries",
    )
    assert compare(one, tmp_path) == (
        2,
        f"error: {tmp_path}: holds no bielik_manifest.json; give a directory that `bielik "
        "evaluate` or `bielik recovery` made",
    )
    status, said = compare(one, other)
    assert (
        status == 2 and "nothing was asked alike (quiz, second: evaluated with version v2" in said
    )
    above = recovery(tmp_path / "r3", one, one, words=("labels=[small]", "above_baseline=true"))
    capsys.readouterr()
    status, said = compare(made, above)
    assert status == 2 and "above the baseline, the other the plain ratio" in said
