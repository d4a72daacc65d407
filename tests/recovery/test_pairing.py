"""What may not be compared is refused with its reason; the rest is kept."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.errors import DataError
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.pairing import Gap, Pair, Stage, pair

Write = Callable[..., Path]


def pairs_of(teacher: Path, student: Path) -> tuple[list[Pair], list[Gap]]:
    stages = [
        Stage(name, (read_evaluation(path),))
        for name, path in (("teacher", teacher), ("s", student))
    ]
    return pair(*stages)


def refusal(teacher: Path, student: Path) -> Gap:
    pairs, gaps = pairs_of(teacher, student)
    assert pairs == [] and len(gaps) == 1
    assert gaps[0].refused
    return gaps[0]


@pytest.mark.parametrize(
    ("teacher", "student", "model", "reason"),
    [
        (
            {"answers": "11", "version": "abc"},
            {"answers": "11", "version": "abd"},
            "s",
            "evaluated with version abd of the suite, the teacher with abc; evaluate both with "
            "the same one",
        ),
        (
            {"answers": "11"},
            {"answers": "11", "limit": 2},
            "s",
            "evaluated with limit 2, the teacher with None; evaluate both with the same one",
        ),
        (
            {"answers": "111"},
            {"answers": "11"},
            "s",
            "the items do not match: 1 of them, such as '2', are alone with the teacher; evaluate "
            "both on the same data",
        ),
        (
            {"answers": "00"},
            {"answers": "11"},
            "teacher",
            "scores 0, so there is nothing to recover",
        ),
    ],
)
def test_pairs_that_prove_nothing_are_refused(
    evaluation: Write, teacher: Any, student: Any, model: str, reason: str
) -> None:
    found = refusal(evaluation("t", **teacher), evaluation("s", **student))
    assert (found.model, found.reason) == (model, reason)


def test_another_metric_or_a_missing_task_is_refused(evaluation: Write) -> None:
    def suites(**tasks: Any) -> dict[str, Any]:
        return {"quiz": {"tasks": tasks}}

    item = {"item": "0", "score": 1.0}
    plain = {"items": [item]}
    first = evaluation("t", suites=suites(a=plain))
    assert (
        "scored by f1, the teacher by acc"
        in refusal(first, evaluation("s1", suites=suites(a={**plain, "metric": "f1"}))).reason
    )
    other = evaluation("s2", suites=suites(b=plain))
    pairs, gaps = pairs_of(first, other)
    assert pairs == [] and [gap.task for gap in gaps] == ["a", "b"]
    assert all("do not both have it" in gap.reason for gap in gaps)


def test_a_score_must_follow_from_its_items(evaluation: Write) -> None:
    def suite(**entry: Any) -> dict[str, Any]:
        return {"quiz": {"tasks": {"a": {"items": [{"item": "0", "score": 1.0}], **entry}}}}

    good = evaluation("t", suites=suite())
    wrong = evaluation("s1", suites=suite(score=0.5))
    assert refusal(good, wrong).reason == "its acc is given as 0.5, its items give 1"
    short = evaluation("s2", suites=suite(items=[{"item": "0", "score": 1.0}]))
    results = json.loads((short / "results.json").read_text())
    results["suites"]["quiz"]["tasks"]["a"]["items"] = 5
    (short / "results.json").write_text(json.dumps(results))
    assert "holds 1 of its 5 items" in refusal(good, short).reason
    (short / "items.jsonl").unlink()
    assert "holds none of its items" in refusal(good, short).reason


def test_one_bad_suite_leaves_the_others(evaluation: Write) -> None:
    def suites(version: str) -> dict[str, Any]:
        task = {"tasks": {"a": {"items": [{"item": "0", "score": 1.0}]}}}
        return {"one": task | {"version": version}, "two": task}

    pairs, gaps = pairs_of(evaluation("t", suites=suites("1")), evaluation("s", suites=suites("2")))
    assert [one.suite for one in pairs] == ["two"]
    assert [(gap.suite, gap.refused) for gap in gaps] == [("one", True)]


def test_a_suite_that_was_not_run_is_no_refusal(evaluation: Write) -> None:
    task = {"tasks": {"a": {"items": [{"item": "0", "score": 1.0}]}}}
    idle = {"status": "not run", "reason": "its data was not there", "tasks": {}}
    teacher = evaluation("t", suites={"one": task, "two": idle, "three": task})
    student = evaluation("s", suites={"one": task, "two": idle})
    pairs, gaps = pairs_of(teacher, student)
    assert [one.suite for one in pairs] == ["one"]
    assert [(gap.suite, gap.model, gap.reason, gap.refused) for gap in gaps] == [
        ("two", "teacher", "its data was not there", False),
        ("two", "s", "its data was not there", False),
        ("three", "s", "this evaluation did not ask for it", False),
    ]


def test_a_suite_of_which_a_server_ran_less_is_compared_task_by_task(evaluation: Write) -> None:
    """The suites' versions hold all tasks that ran, so they differ; the tasks' own decide."""

    def suites(version: str, not_run: dict[str, str], **tasks: str) -> dict[str, Any]:
        items = [{"item": "0", "score": 1.0}]
        found = {name: {"items": items, "version": one} for name, one in tasks.items()}
        return {"quiz": {"tasks": found, "version": version, "not_run": not_run}}

    here = evaluation("t", suites=suites("ab", {}, a="1", b="2", c="3"))
    reason = "the server does not echo the prompt's log-probabilities"
    served = evaluation("s", suites=suites("a", {"b": reason}, a="1", c="4"))
    pairs, gaps = pairs_of(here, served)
    assert [one.teacher.name for one in pairs] == ["a"]
    assert [(gap.task, gap.reason, gap.refused) for gap in gaps] == [
        ("b", reason, False),
        (
            "c",
            "evaluated with version 4 of the task, the teacher with 3; evaluate both with the same "
            "one",
            True,
        ),
    ]
    other = evaluation("o", suites=suites("c", {}, a="5", b="6", c="7"))
    assert refusal(here, other).reason.startswith("evaluated with version c of the suite")


def test_tasks_that_were_not_run_are_told_one_by_one(evaluation: Write) -> None:
    task = {"items": [{"item": "0", "score": 1.0}]}
    lacking = {"b": "its data was not there"}
    suites = {
        "one": {"tasks": {"a": task}, "not_run": lacking},
        "two": {"tasks": {}},
    }
    pairs, gaps = pairs_of(evaluation("t", suites=suites), evaluation("s", suites=suites))
    assert [one.teacher.name for one in pairs] == ["a"]
    assert [(gap.suite, gap.task, gap.model, gap.reason) for gap in gaps] == [
        ("one", "b", "teacher", "its data was not there"),
        ("one", "b", "s", "its data was not there"),
        ("two", "", "teacher", "none of its tasks was run"),
        ("two", "", "s", "none of its tasks was run"),
    ]
    assert not any(gap.refused for gap in gaps)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("results.json", None, "is no evaluation, it lacks results.json"),
        ("bielik_manifest.json", None, "is no evaluation, it lacks bielik_manifest.json"),
        ("results.json", "{", "is not JSON"),
        ("results.json", '{"suites": []}', "suites must be one JSON object"),
        ("results.json", '{"suites": {"quiz": {"tasks": []}}}', "suite quiz must be an object"),
        (
            "results.json",
            '{"suites": {"quiz": {"tasks": {"task": {"score": "good"}}}}}',
            "suite quiz, task task: score is 'good'; it must be a finite number",
        ),
        ("items.jsonl", "{", "items.jsonl: line 1 is not JSON"),
        (
            "items.jsonl",
            '{"suite": "quiz", "task": "task", "item": "0", "score": 1}\n' * 2,
            "line 2: item 0 of task task stands there twice",
        ),
    ],
)
def test_damaged_evaluations_are_named(
    evaluation: Write, name: str, content: str | None, line: str
) -> None:
    path = evaluation("t", "11")
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read_evaluation(path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_minimal_pairs_and_facts_are_suites_of_their_own(evaluation: Write) -> None:
    """As `bielik evaluate` writes them: without entries, by group, versioned by their file."""
    path = evaluation(
        "t", suites={}, minimal_pairs_accuracy=0.5, fact_accuracy=1.0, fact_chance=0.1
    )
    lines = [
        {"suite": "minimal_pairs", "group": "case", "sentence": "a", "score": 1.0},
        {"suite": "minimal_pairs", "group": "number", "sentence": "a", "score": 0.0},
        {"suite": "facts", "group": "born", "sentence": "b", "score": 1.0},
        {"suite": "perplexity", "document": 0, "log_prob": -3.0},
    ]
    (path / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    manifest = json.loads((path / "bielik_manifest.json").read_text())
    manifest["config"]["minimal_pairs"] = "pairs.jsonl"
    manifest["inputs"]["pairs.jsonl"] = "hash of the pairs"
    (path / "bielik_manifest.json").write_text(json.dumps(manifest))
    suites = read_evaluation(path).suites
    assert suites["minimal_pairs"].version == "hash of the pairs"
    pairs = suites["minimal_pairs"].tasks["minimal_pairs"]
    assert [item["category"] for item in pairs.items.values()] == ["case", "number"]
    assert (pairs.score, pairs.baseline, pairs.statistics.score) == (0.5, 0.5, 0.5)
    assert suites["facts"].tasks["facts"].baseline == 0.1
