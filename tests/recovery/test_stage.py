"""The command from evaluations to a directory, and its refusals in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik import cli
from nemo_bielik.manifest import Manifest
from nemo_bielik.recovery.stage import RecoveryConfig, recover

Write = Callable[..., Path]

GIVE = "give a directory that `bielik evaluate` made"


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Return a function that runs ``bielik recovery`` and gives its status and what it said."""

    def command(teacher: Path, *students: Path, words: tuple[str, ...] = ()) -> tuple[int, str]:
        listed = ",".join(map(str, students))
        status = cli.main(
            ["recovery", f"teacher={teacher}", f"students=[{listed}]"]
            + [f"output={tmp_path / 'out'}", "resamples=200", *words]
        )
        said = capsys.readouterr()
        return status, (said.err or said.out).strip()

    return command


def results(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    return found


def test_the_directory_holds_figures_page_card_and_manifest(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    teacher, student = evaluation("t", "1111"), evaluation("distilled-seed3", "1110")
    assert run(teacher, student)[0] == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "recovery.html", "README.md", "bielik_manifest.json"}
    found = results(tmp_path)
    assert [row["recovery_percent"] for row in found["rows"] if row["level"] == "overall"] == [75.0]
    assert (found["ratio"], found["main"], found["refused"]) == (
        "plain",
        "distilled-seed3"[:-6],
        [],
    )
    assert found["students"][0]["against"] == "teacher"
    assert found["teacher"]["fingerprints"] == ["f" * 64]
    assert all(row["limited"] == [] for row in found["rows"])
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.stage == "recovery"
    assert str(student / "items.jsonl") in manifest.inputs


def test_what_is_done_is_not_done_again_and_other_input_is_refused(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    teacher, student = evaluation("t", "1111"), evaluation("s", "1110")
    run(teacher, student)
    before = (tmp_path / "out" / "results.json").stat().st_mtime_ns
    assert run(teacher, student) == (0, "")
    assert (tmp_path / "out" / "results.json").stat().st_mtime_ns == before
    status, said = run(teacher, student, words=("seed=2",))
    assert status == 2 and "already made by stage 'recovery' with another setting seed" in said


def test_another_version_is_refused_in_one_line_and_the_rest_is_kept(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    def suites(version: str) -> dict[str, Any]:
        items = [{"item": str(n), "score": 1.0} for n in range(3)]
        return {
            "one": {"version": version, "tasks": {"a": {"items": items}}},
            "two": {"tasks": {"a": {"items": items}}},
        }

    teacher, student = (evaluation(name, suites=suites(name)) for name in ("t", "s"))
    for _ in range(2):  # said again when the command is given again
        status, said = run(teacher, student)
        assert status == 2
        assert said.splitlines()[-1] == (
            "error: s: suite one: evaluated with version s of the suite, the teacher with t; "
            f"evaluate both with the same one; the rest is in {tmp_path / 'out'}"
        )
    found = results(tmp_path)
    assert [row["suite"] for row in found["rows"] if row["level"] == "suite"] == ["two"]
    assert [(gap["suite"], gap["model"]) for gap in found["refused"]] == [("one", "s")]


@pytest.mark.parametrize(
    ("teacher", "student", "line"),
    [
        (
            {"answers": "00"},
            {"answers": "11"},
            "nothing of the students can be held against the teacher (quiz, task task, teacher: "
            "scores 0, so there is nothing to recover)",
        ),
        (
            {"answers": "11", "version": "1"},
            {"answers": "11", "version": "2"},
            "nothing of the students can be held against the teacher (quiz, s: evaluated with "
            "version 2 of the suite, the teacher with 1; evaluate both with the same one)",
        ),
    ],
)
def test_where_nothing_can_be_compared_nothing_is_written(
    evaluation: Write, run: Any, tmp_path: Path, teacher: Any, student: Any, line: str
) -> None:
    status, said = run(evaluation("t", **teacher), evaluation("s", **student))
    assert (status, said) == (2, f"error: {line}")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "t"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("labels=[a,b]",), "2 labels for 1 students; give one for each"),
        (
            ("labels=[teacher]",),
            "a student is labelled 'teacher'; give labels that tell them apart",
        ),
        (("main=b",), "main is 'b'; the students are s"),
        (("resamples=9",), "resamples is 9; an interval needs at least 100"),
        (("confidence=2",), "confidence is 2.0; it must lie between 0 and 1"),
        (("languages=[Polish]",), "languages has 'Polish'; it takes ISO 639 codes such as pl"),
        (("baselines=[no]",), "no: is no evaluation, it lacks bielik_manifest.json; " + GIVE),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    evaluation: Write, run: Any, tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    teacher, student = evaluation("t", "1"), evaluation("s", "1")
    assert run(teacher, student, words=words) == (2, f"error: {line}")
    assert not (tmp_path / "out").exists()


def test_the_headline_is_printed_a_line_a_student(
    evaluation: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = evaluation("t", "1111", limit=4)
    students = [evaluation("a", "1111", limit=4), evaluation("b", "1110", limit=4)]
    recover(RecoveryConfig(teacher=teacher, students=students, output=tmp_path / "out"))
    first, second, files = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["a", "keeps", "100.0", "%"]
    assert second.split()[:7] == ["b", "keeps", "75.0", "%", "25.0", "to", "100.0;"]
    assert second.endswith("; limited: quiz") and "recovery.html" in files


def test_repeats_share_a_label_and_a_label_comes_from_the_models_stage(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    Manifest(stage="distill", config={}).save(_folder(tmp_path / "m1"))
    teacher = evaluation("t", "1111")
    students = [
        evaluation("x1", "1110", model=str(tmp_path / "m1")),
        evaluation("y-seed1", "1100"),
        evaluation("y-seed2", "1000"),
    ]
    assert run(teacher, *students)[0] == 0
    found = results(tmp_path)
    assert [one["label"] for one in found["students"]] == ["distilled", "y"]
    assert [one["made_by"] for one in found["students"]] == ["distill", ""]
    overall = [row["recovery_percent"] for row in found["rows"] if row["level"] == "overall"]
    assert overall == [75.0, 37.5]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(mean of 2 repeats)" in card.split("---")[1]  # in what a hub reads


def test_the_stages_of_alignment_stand_in_their_order_each_against_the_one_before(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    """As the report's Table 14; evaluations as `bielik align` leaves them, beside the demo's."""
    made = {"pruned": "prune", "distilled-seed1": "distill"}
    made |= {"x": "sft", "y": "dpo", "z": "grpo"}
    answers = ("10000000", "11000000", "11110000", "11111000", "11110000")
    students = []
    for (name, stage), right in zip(made.items(), answers, strict=True):
        model = _folder(tmp_path / f"made-by-{stage}")
        Manifest(stage=stage, config={}).save(model)
        place = "align/evaluations" if stage in ("sft", "dpo", "grpo") else "demo/evaluations"
        students.append(evaluation(f"{place}/{name}", right, model=str(model)))
    assert run(evaluation("demo/evaluations/teacher", "1" * 8), *students)[0] == 0
    found = results(tmp_path)
    assert [one["made_by"] for one in found["students"]] == [*made.values()]
    rows = [row for row in found["rows"] if row["level"] == "overall"]
    labels = ["pruned", "distilled", "fine-tuned", "aligned", "aligned-grpo"]
    assert [row["student"] for row in rows] == labels
    assert [row["recovery_percent"] for row in rows] == [12.5, 25.0, 50.0, 62.5, 50.0]
    changes = [row["change"] for row in rows[1:]]
    assert [one["from"] for one in changes] == labels[:-1]
    assert [one["recovery_points"] for one in changes] == [12.5, 25.0, 12.5, -12.5]
    page = (tmp_path / "out" / "recovery.html").read_text(encoding="utf-8")
    places = [page.index(f">{label}<") for label in labels]
    assert places == sorted(places)


def test_perplexity_stands_there_only_for_the_same_text(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    teacher = evaluation("t", "1", perplexity=3.0)
    students = [evaluation("s", "1", perplexity=4.0), evaluation("u", "1", perplexity=5.0)]
    other = json.loads((students[1] / "bielik_manifest.json").read_text())
    other["config"]["texts"] = ["another.txt"]
    (students[1] / "bielik_manifest.json").write_text(json.dumps(other))
    run(teacher, *students)
    found = results(tmp_path)
    assert [one["perplexity"] for one in (found["teacher"], *found["students"])] == [3.0, 4.0, None]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_two_stages_of_one_name_are_not_taken_for_repeats(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    for name in ("m1", "m2"):
        Manifest(stage="distill", config={}).save(_folder(tmp_path / name))
    students = [evaluation(f"x{n}", "1110", model=str(tmp_path / f"m{n}")) for n in (1, 2)]
    status, said = run(evaluation("t", "1111"), *students)
    assert status == 2
    assert said.startswith("error: two students are called 'distilled'")
    assert not (tmp_path / "out").exists()


def test_a_served_model_is_called_by_its_name_and_address(
    evaluation: Write, run: Any, tmp_path: Path
) -> None:
    student = evaluation("s", "1110")
    manifest = json.loads((student / "bielik_manifest.json").read_text())
    manifest["config"] = {"model": None, "endpoint": "http://host:1/v1", "endpoint_model": "Q4"}
    manifest["inputs"] = {}
    (student / "bielik_manifest.json").write_text(json.dumps(manifest))
    assert run(evaluation("t", "1111"), student)[0] == 0
    assert results(tmp_path)["students"][0]["model"] == "Q4 at http://host:1/v1"
    said = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "is Q4 at http://host:1/v1, whose weights were not at hand" in said


def test_a_figure_of_fewer_tasks_says_so_everywhere(
    evaluation: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both students answer alike; of the second, task b went astray, so it is set against nothing.

    Of a and b the teacher has 3 of 4, the students 2: 2/3. Of a alone 1 of 2 is a half.
    """
    output, teacher = tmp_path / "out", evaluation("t", {"a": "11", "b": "10"})
    whole = evaluation("s", {"a": "10", "b": "10"})
    lost = evaluation("q", {"a": "10", "b": "1"})
    students = f"students=[{whole},{lost}]"
    assert cli.main(["recovery", f"teacher={teacher}", students, f"output={output}"]) == 2
    assert "quiz: 1 of 2 tasks" in capsys.readouterr().out
    rows = json.loads((output / "results.json").read_text())["rows"]
    levels = {(row["level"], row["student"]): row for row in rows if row["level"] != "task"}
    assert levels["suite", "s"]["recovery_percent"] == pytest.approx(200 / 3)
    assert (levels["suite", "s"]["note"], levels["overall", "s"]["note"]) == ("", "")
    assert levels["suite", "q"]["recovery_percent"] == 50.0
    assert levels["suite", "q"]["note"] == "1 of 2 tasks"
    assert levels["overall", "q"]["note"] == "quiz: 1 of 2 tasks"
    assert not any("change" in levels[level, "q"] for level in ("suite", "overall"))
    assert "1 of 2 tasks" in (output / "README.md").read_text()
    assert "quiz: 1 of 2 tasks" in (output / "recovery.html").read_text()
