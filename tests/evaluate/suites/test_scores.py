"""Scores that others return as a suite, from the file to the report's CPTUB row."""

import json

import pytest

from nemo_bielik.errors import DataError, StorageError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.evaluate.suites.scores import read_scores
from nemo_bielik.paper.tables import benchmark_columns, benchmark_of
from nemo_bielik.recovery.beside import beside_report
from nemo_bielik.recovery.stage import RecoveryConfig, recover

HEADER = {"suite": "house", "version": "2025-01", "model": "m", "scale": [0, 5]}


def put(path, *rows, **header):
    """Write a header and rows as JSON lines, or as one object where `path` ends in .json."""
    whole = {name: value for name, value in (HEADER | header).items() if value is not None}
    if path.suffix == ".json":
        path.write_text(json.dumps(whole | {"scores": rows}), encoding="utf-8")
    else:
        path.write_text("".join(f"{json.dumps(one)}\n" for one in (whole, *rows)), encoding="utf-8")
    return path


def row(task="a", item="1", score=1.0, **parts):
    return {"task": task, "item": item, "score": score, **parts}


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json"])
def test_rows_are_tasks_and_items(tmp_path, name):
    rows = [
        row(item="1", score=4, category="x", language="pl"),
        row(item=2, score=1.5, category="y", language="pl"),
        row(task="b", score=5.0),
    ]
    found = read_scores(put(tmp_path / name, *rows, limit="3 of 40 questions"))
    assert (found.name, found.model) == ("house", "m")
    assert found.summary["version"] == "2025-01, scale 0 to 5"
    assert found.summary["limit"] == "3 of 40 questions"
    assert {task: (one["score"], one["items"]) for task, one in found.tasks.items()} == {
        "a": (2.75, 2),
        "b": (5.0, 1),
    }
    assert (found.tasks["a"]["language"], found.tasks["a"]["category"]) == ("pl", "")
    parts = [(item["item"], item["score"], item["category"]) for item in found.items]
    assert parts == [("1", 4.0, "x"), ("2", 1.5, "y"), ("1", 5.0, "")]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"suite": None}, "suite is None; it must be text that is not empty"),
        ({"version": " "}, "version is ' '; it must be text"),
        ({"model": 7}, "model is 7; it must be text"),
        ({"scale": None}, r"scale is None; it must be \[lowest, highest\], as in \[0, 5\]"),
        ({"scale": [5, 0]}, r"scale is \[5, 0\]; the lowest score must come first"),
        ({"scale": [0, float("nan")]}, r"scale is \[0, nan\]; the lowest score must come first"),
        ({"limits": "x"}, r"'limits' is not known here \(did you mean 'limit'\?\); expected suite"),
        ({"suite": "belebele"}, "suite is 'belebele', which bielik evaluate has its own way for"),
        ({"suite": "facts"}, "suite is 'facts', which bielik evaluate has its own way for"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, header, said):
    with pytest.raises(DataError, match=f"scores.jsonl: line 1: {said}"):
        read_scores(put(tmp_path / "scores.jsonl", row(), **header))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(score="4")], "{2}: score is '4'; it must be a number from 0 to 5, the scale"),
        ([{"task": "a", "item": "1"}], "{2}: score is None; it must be a number"),
        ([row(score=True)], "{2}: score is True; it must be a number"),
        ([row(score=float("nan"))], "{2}: score is nan; it must be a number"),
        ([row(), row(item="2", score=5.5)], "{3}: score is 5.5; it must be a number from 0 to 5"),
        ([row(score=-1)], "{2}: score is -1; it must be a number from 0 to 5"),
        ([row(item=1), row()], "{3}: item 1 of task a stands there twice, first in {2}"),
        ([row(item=None)], "{2}: item is None; it must be text that is not empty"),
        ([row(item=True)], "{2}: item is True; it must be text that is not empty"),
        ([row(task="")], "{2}: task is ''; it must be text that is not empty"),
        ([row(category=3)], "{2}: category is 3; it must be text that is not empty"),
        ([row(kategoria="x")], "{2}: 'kategoria' is not known here (did you mean 'category'?)"),
        ([[1]], "{2} is list; it must be one JSON object"),
    ],
)
@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json"])
def test_a_row_that_does_not_fit_is_named(tmp_path, name, rows, said):
    """By its line, or by its number where all rows are one JSON object."""
    path = put(tmp_path / name, *rows)
    places = {str(n): f"line {n}" if name.endswith("l") else f"row {n - 1}" for n in (2, 3)}
    for number, place in places.items():
        said = said.replace(f"{{{number}}}", place)
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("scores.jsonl", "", "is empty; expected a header and a row for every item"),
        ("scores.jsonl", f"{json.dumps(HEADER)}\n", "holds no scores; give a row for every item"),
        ("scores.jsonl", f"{json.dumps(HEADER)}\n{{", "line 2 is not JSON"),
        ("scores.jsonl", None, "no such file"),
        ("scores.json", None, "no such file"),
        ("scores.json", "{", "is not JSON"),
        ("scores.json", b"\xff", "is not JSON"),
        ("scores.json", "[]", 'must be one object with a list "scores"'),
        ("scores.json", json.dumps(HEADER), 'must be one object with a list "scores"'),
    ],
)
def test_a_file_without_scores_is_refused(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(str(path)) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_stand_where_the_suite_was_not_run(suite_model, results_of, tmp_path, capsys):
    path = put(tmp_path / "cptub.jsonl", row(task="sentiment", score=4), suite="cptub", limit="1")
    output = tmp_path / "out"
    evaluate(EvaluateConfig(model=suite_model, output=output, suites=["cptub"], scores=[path]))
    suites, (item,) = results_of(output)
    assert suites["cptub"]["status"] == "run" and not suites["cptub"]["reason"]
    assert (item["suite"], item["task"], item["score"]) == ("cptub", "sentiment", 4.0)
    assert "score 4.0000 over 1 tasks, LIMIT: 1" in capsys.readouterr().out


def test_a_limit_that_is_added_later_is_another_evaluation(suite_model, tmp_path):
    """Otherwise the first one stands, unmarked."""
    path = tmp_path / "scores.jsonl"
    for limit in (None, "3 of 40 questions"):
        config = EvaluateConfig(
            model=suite_model, output=tmp_path / "out", scores=[put(path, row(), limit=limit)]
        )
        if limit:
            with pytest.raises(StorageError, match="another input house"):
                evaluate(config)
        else:
            evaluate(config)


def test_one_suite_in_two_files_is_refused(suite_model, tmp_path):
    files = [put(tmp_path / name, row()) for name in ("a.jsonl", "b.json")]
    config = EvaluateConfig(model=suite_model, output=tmp_path / "out", scores=files)
    with pytest.raises(DataError, match=r"b.json: suite house is in another file of scores too"):
        evaluate(config)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def recovered(suite_model, tmp_path, monkeypatch):
    """Return a function that recovers from the (rows, header) of teacher and student."""

    def never(*args):
        raise AssertionError("weights were read to copy scores")

    monkeypatch.setattr(LanguageModel, "open", never)

    def run(**roles):
        for role, (rows, header) in roles.items():
            path = put(tmp_path / f"{role}.jsonl", *rows, **header)
            output = tmp_path / f"{role}-evaluation"
            evaluate(EvaluateConfig(model=suite_model, output=output, scores=[path]))
        recover(
            RecoveryConfig(
                teacher=tmp_path / "teacher-evaluation",
                students=[tmp_path / "student-evaluation"],
                labels=["student"],
                output=tmp_path / "recovery",
                resamples=200,
            )
        )
        return json.loads((tmp_path / "recovery/results.json").read_text(encoding="utf-8"))

    return run


def test_cptub_stands_in_the_reports_row(recovered, tmp_path):
    """Its Table 7 as items: two a column whose mean is printed there, and one task beside them."""
    columns = benchmark_columns(benchmark_of("cptub"))[2:]

    def rows(place):
        scores = {name: values[place] for name, *values in columns} | {"riddles": 5.0 - 4 * place}
        return [
            row(task=task, item=str(n), score=score + (0.1 if n else -0.1) * (score < 5))
            for task, score in scores.items()
            for n in (0, 1)
        ]

    header = {"suite": "cptub"}
    found = recovered(teacher=(rows(0), header), student=(rows(1), header | {"model": "s"}))
    (suite,) = [one for one in found["rows"] if one["level"] == "suite"]
    assert suite["recovery_percent"] == pytest.approx(100 * 13.52 / 14.94)  # printed: 90.6
    assert suite["tasks"] == 4 and suite["metric"] == "score"
    beside, mean = beside_report(found)
    assert (beside["benchmark"], beside["differs"]) == ("CPTUB, Table 7", "")
    assert mean["differs"].startswith("1 of 9")
    said = (tmp_path / "recovery/recovery.html").read_text(encoding="utf-8")
    assert "cptub: m (as named there, hash not checked)" in said


def test_cptub_without_the_reports_columns_says_so(recovered):
    rows = [row(task="sentiment"), row(task="riddles")]
    found = recovered(teacher=(rows, {"suite": "cptub"}), student=(rows, {"suite": "cptub"}))
    assert beside_report(found)[0]["differs"] == (
        "other tasks or metrics than the report’s: 1 of its 4, without language_understanding; "
        "phraseology; tricky_questions"
    )


def test_two_scales_are_not_held_against_each_other(recovered):
    with pytest.raises(DataError, match="version 2025-01, scale 0 to 100 of the suite"):
        recovered(teacher=([row()], {}), student=([row()], {"scale": [0, 100]}))
