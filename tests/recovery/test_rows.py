"""Recoveries and intervals of pairs of models whose every answer is known, worked out by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bielik.evaluate.bootstrap import Bootstrap
from nemo_bielik.evaluate.metrics import METRICS
from nemo_bielik.recovery.aggregation import Rules, recoveries
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.pairing import Stage, pair
from nemo_bielik.recovery.rows import Row, table

Write = Callable[..., Path]


def rows_of(teacher: Path, *students: list[Path], rules: Rules | None = None) -> list[Row]:
    """Return the rows of students, each a list of repeats, called a, b, …"""
    rules = rules or Rules()
    against = Stage("teacher", (read_evaluation(teacher),))
    found = []
    for label, paths in zip("abc", students, strict=False):
        stage = Stage(label, tuple(map(read_evaluation, paths)))
        pairs, gaps = pair(against, stage)
        assert gaps == []
        found.append(recoveries(pairs, label, rules))
    return table(found, rules)


def row_of(rows: list[Row], level: str, name: str = "", **wanted: Any) -> Row:
    matches = [
        row
        for row in rows
        if row["level"] == level
        and row["name"] == name
        and all(row[key] == value for key, value in wanted.items())
    ]
    assert len(matches) == 1, matches
    return matches[0]


def test_four_items_give_the_recovery_and_interval_worked_out_by_hand(evaluation: Write) -> None:
    """The student has 3 of 4, the teacher 4: 75 %.

    A resample has k right with k binomial (4, ¾): 0.4 % have none, 5.1 % one or none, 31.6 % all
    four. So the 2.5th percentile is one of four and the 97.5th all of them.
    """
    rows = rows_of(evaluation("t", "1111"), [evaluation("s", "1110")])
    row = row_of(rows, "task", "task")
    assert row["recovery_percent"] == 75.0
    assert row["recovery_interval_percent"] == [25.0, 100.0]
    assert (row["items"], row["teacher_score"], row["student_score"]) == (4, 1.0, 0.75)
    assert row_of(rows, "suite", "quiz")["recovery_interval_percent"] == [25.0, 100.0]
    assert row_of(rows, "overall")["recovery_percent"] == 75.0


def test_a_pair_that_answers_alike_recovers_all_without_doubt(evaluation: Write) -> None:
    """Unpaired draws would give an interval; paired ones are 100 % every time."""
    row = row_of(
        rows_of(evaluation("t", "11111101"), [evaluation("s", "11111101")]), "task", "task"
    )
    assert row["recovery_percent"] == 100.0
    assert row["recovery_interval_percent"] == [100.0, 100.0]


def two_tasks(easy: str, hard: str, **about: Any) -> dict[str, Any]:
    from_answers = {"easy": easy, "hard": hard}
    tasks = {
        name: {"items": [{"item": str(n), "score": float(a)} for n, a in enumerate(answers)]}
        for name, answers in from_answers.items()
    }
    tasks["easy"] |= {"baseline": 0.5, "language": "pl", "category": "reading"}
    tasks["hard"] |= {"baseline": 0.25, "language": "cs", "category": "reading"}
    return {"tasks": tasks, **about}


def test_a_suite_is_the_ratio_of_means_or_the_mean_of_ratios(evaluation: Write) -> None:
    """Easy: 4/4 and 3/4; hard: 2/4 and 1/4. Means 0.75 and 0.5: 66.7 %. Ratios 75 % and 50 %.

    Above the baselines, of mean 0.375: (0.5 − 0.375) / (0.75 − 0.375) is a third; by task it is
    (0.75 − 0.5) / 0.5 and 0 / 0.25, in the mean a quarter.
    """
    paths = [
        evaluation(name, suites={"quiz": two_tasks(*tasks)})
        for name, tasks in (("t", ("1111", "1100")), ("s", ("1110", "1000")))
    ]
    means = row_of(rows_of(paths[0], [paths[1]]), "suite", "quiz")
    assert means["recovery_percent"] == pytest.approx(200 / 3)
    assert means["above_baseline_percent"] == pytest.approx(100 / 3)
    assert (means["tasks"], means["items"], means["baseline"]) == (2, 8, 0.375)
    ratios = rows_of(paths[0], [paths[1]], rules=Rules(mean_of_ratios=["quiz"]))
    row = row_of(ratios, "suite", "quiz")
    assert row["recovery_percent"] == pytest.approx(62.5)
    assert row["above_baseline_percent"] == pytest.approx(25.0)
    assert (means["aggregation"], row["aggregation"]) == ("ratio of means", "mean of ratios")


def test_datasets_of_one_row_count_as_one(evaluation: Write) -> None:
    """Sentiment in three languages keeps a half, entities in one all: 75 %, and not 62.5 %."""
    rows = {"pl": "sentiment", "de": "sentiment", "cs": "sentiment", "entities": "entities"}
    paths = []
    for name, kept in (("t", "1111"), ("s", "1100")):
        answers = {task: kept if row == "sentiment" else "1111" for task, row in rows.items()}
        tasks = {
            task: {
                "row": rows[task],
                "items": [{"item": str(n), "score": float(a)} for n, a in enumerate(given)],
            }
            for task, given in answers.items()
        }
        paths.append(evaluation(name, suites={"quiz": {"tasks": tasks}}))
    found = rows_of(paths[0], [paths[1]], rules=Rules(mean_of_ratios=["quiz"]))
    assert row_of(found, "suite", "quiz")["recovery_percent"] == 75.0


def test_categories_and_languages_take_their_own_items(evaluation: Write) -> None:
    """One task of two languages, beside another suite in Polish alone."""
    answers = {"t": ("1111", "11"), "s": ("1100", "10")}
    paths = []
    for name, (mixed, polish) in answers.items():
        items = [
            {"item": str(n), "score": float(a), "language": "pl" if n < 3 else "cs"}
            for n, a in enumerate(mixed)
        ]
        other = [{"item": str(n), "score": float(a)} for n, a in enumerate(polish)]
        suites = {
            "mixed": {"tasks": {"both": {"items": items, "language": ""}}},
            "own": {"tasks": {"one": {"items": other}}},
        }
        paths.append(evaluation(name, suites=suites))
    rows = rows_of(paths[0], [paths[1]])
    polish_row = row_of(rows, "language", "pl", suite="mixed")
    assert polish_row["recovery_percent"] == pytest.approx(200 / 3)
    assert row_of(rows, "language", "cs", suite="mixed")["recovery_percent"] == 0.0
    assert row_of(rows, "language", "pl", suite="own")["recovery_percent"] == 50.0
    both = row_of(rows, "language", "pl", suite=None)
    assert both["recovery_percent"] == pytest.approx((200 / 3 + 50) / 2)
    assert row_of(rows, "overall")["recovery_percent"] == pytest.approx(50.0)


def test_repeats_of_a_stage_are_averaged(evaluation: Write) -> None:
    teacher = evaluation("t", "1111")
    rows = rows_of(teacher, [evaluation("s1", "1110"), evaluation("s2", "1000")])
    row = row_of(rows, "task", "task")
    assert (row["student_score"], row["recovery_percent"]) == (0.5, 50.0)


def test_the_change_between_stages_is_paired(evaluation: Write) -> None:
    """Stage b has one item more right than a, whichever is drawn; c is b again."""
    teacher = evaluation("t", "11111111")
    stages = [
        evaluation(name, answers) for name, answers in (("a", "1" * 6 + "00"), ("b", "1" * 7 + "0"))
    ]
    rows = rows_of(teacher, [stages[0]], [stages[1]], [stages[1]])
    change = row_of(rows, "suite", "quiz", student="b")["change"]
    assert (change["from"], change["recovery_points"]) == ("a", 12.5)
    low, high = change["recovery_interval_points"]
    assert low == 0.0 and high == pytest.approx(37.5)  # binomial (8, ⅛): 0 to 3 items
    same = row_of(rows, "overall", student="c")["change"]
    assert (same["recovery_points"], same["recovery_interval_points"]) == (0.0, [0.0, 0.0])
    assert "change" not in row_of(rows, "overall", student="a")


def test_a_corpus_metric_is_computed_again_in_every_resample(evaluation: Write) -> None:
    """Against the metric of the drawn items themselves, resample by resample."""
    generator = np.random.default_rng(8)
    real = [str(n) for n in generator.integers(3, size=30)]
    said = {
        name: [r if generator.random() < skill else str(generator.integers(3)) for r in real]
        for name, skill in (("t", 0.9), ("s", 0.6))
    }
    items = {
        name: [
            {"item": f"{n:02}", "reference": r, "prediction": p}
            for n, (r, p) in enumerate(zip(real, own, strict=True))
        ]
        for name, own in said.items()
    }
    score = METRICS["mcc"].score
    paths = [
        evaluation(
            name,
            suites={"quiz": {"tasks": {"t": {"metric": "mcc", "items": own, "score": score(own)}}}},
        )
        for name, own in items.items()
    ]
    bootstrap = Bootstrap(resamples=200)
    row = row_of(rows_of(paths[0], [paths[1]], rules=Rules(bootstrap=bootstrap)), "task", "t")
    ratios = []
    keys = [item["item"] for item in items["t"]]
    for counts in bootstrap.draws("\n".join(["quiz/t", *keys]), 30):
        for drawn in counts:
            teacher, student = (
                score([item for item, times in zip(own, drawn, strict=True) for _ in range(times)])
                for own in items.values()
            )
            ratios.append(100 * student / teacher)
    assert row["recovery_percent"] == pytest.approx(100 * score(items["s"]) / score(items["t"]))
    expected = np.percentile(ratios, [2.5, 97.5]).tolist()
    assert row["recovery_interval_percent"] == pytest.approx(expected)


def in_two_languages(first: str, second: str, dataset: str) -> dict[str, Any]:
    """Return a suite of one dataset's questions in two languages, in the other one backwards."""
    order = [*range(len(first))]
    tasks = {
        name: {
            "dataset": dataset,
            "items": [
                {"item": str(row), "question": f"passage {n}", "score": float(given[n])}
                for row, n in enumerate(places)
            ],
        }
        for name, given, places in (("pl", first, order), ("cs", second, order[::-1]))
    }
    return {"quiz": {"tasks": tasks}}


def test_tasks_of_the_same_questions_share_their_draws(evaluation: Write) -> None:
    """A student that knows each passage in one of two languages knows half of any draw."""
    suites = {
        "t": in_two_languages("11111111", "11111111", "d"),
        "s": in_two_languages("11001010", "00110101", "d"),
    }
    teacher, student = (evaluation(name, suites=own) for name, own in suites.items())
    rows = rows_of(teacher, [student])
    assert row_of(rows, "suite", "quiz")["recovery_interval_percent"] == [50.0, 50.0]
    low, high = row_of(rows, "task", "pl")["recovery_interval_percent"]
    assert high - low > 30


def test_tasks_of_other_questions_have_draws_of_their_own(evaluation: Write) -> None:
    """The same answers to two datasets agree by chance, and a resample says so."""
    suites = {}
    for name, answers in {"t": ("1" * 8, "1" * 8), "s": ("11001010", "00110101")}.items():
        suites[name] = in_two_languages(*answers, "d")
        suites[name]["quiz"]["tasks"]["cs"]["dataset"] = "e"
    teacher, student = (evaluation(name, suites=own) for name, own in suites.items())
    low, high = row_of(rows_of(teacher, [student]), "suite", "quiz")["recovery_interval_percent"]
    assert high - low > 20


def test_a_measured_baseline_takes_the_place_of_guessing(evaluation: Write) -> None:
    rules = Rules(baselines={("quiz", "task"): 0.5})
    rows = rows_of(evaluation("t", "1111"), [evaluation("s", "1110")], rules=rules)
    assert row_of(rows, "task", "task")["above_baseline_percent"] == 50.0
    assert row_of(rows, "task", "task")["recovery_percent"] == 75.0


def test_a_teacher_at_the_baseline_leaves_the_plain_ratio(evaluation: Write) -> None:
    suites = {name: {"quiz": two_tasks("1100", "1111")} for name in ("t", "s")}
    paths = [evaluation(name, suites=own) for name, own in suites.items()]
    row = row_of(rows_of(paths[0], [paths[1]]), "task", "easy")
    assert (row["recovery_percent"], row["above_baseline_percent"]) == (100.0, None)
    assert "no better than the baseline of 0.5" in row["note"]
    assert row["recovery_interval_percent"] is None  # one draw in 16 has none of its right answers
    assert "no interval" in row["note"]
