"""The page against the results: the same figures, whole HTML, nothing of a hostile name alive."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.recovery.aggregation import Rules
from nemo_bielik.recovery.gather import collect, open_stages
from nemo_bielik.recovery.page import render
from nemo_bielik.recovery.panels import kinds

HOSTILE = "</title><script>alert(1)</script><img src=x onerror='alert(2)'>\"{{ 7 * 7 }}"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Collects tags, faults of nesting, and the text of what names a figure, without its remark."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.faults: list[str] = []
        self.figures: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("data-figure") or ""))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1][0] != tag:
            self.faults.append(f"{tag} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if any(tag == "style" for tag, _ in self.open):
            return
        self.text += data
        name = next((name for _, name in self.open if name), "")
        place = self.remarks if any(tag == "small" for tag, _ in self.open) else self.figures
        if name:
            place[name] = place.get(name, "") + data.strip()


def task(answers: str, **about: Any) -> dict[str, Any]:
    items = [{"item": str(n), "score": float(a)} for n, a in enumerate(answers)]
    return {"items": items, "baseline": 0.25, **about}


def suites(skill: int) -> dict[str, Any]:
    """Return suites that a model of this skill, of ten, answered."""
    answers = "1" * skill + "0" * (10 - skill)
    return {
        "belebele": {
            "limit": 10,
            "tasks": {
                f"belebele_{code}": task(answers, language=code) for code in ("pl", "cs", "sk")
            },
        },
        "open-pl": {
            "tasks": {
                "polemo2": task(answers * 4, category="sentiment"),
                HOSTILE: task(answers * 3, category=HOSTILE, schema="schema unverified"),
            }
        },
        "bfcl": {"status": "not run", "reason": f"no server {HOSTILE}", "tasks": {}},
        "cptub": {"version": f"v{skill}", "tasks": {"a": task(answers)}},
    }


@pytest.fixture
def found(evaluation: Callable[..., Path]) -> dict[str, Any]:
    """Results of a teacher and two students, one of a hostile label."""
    skills = {"teacher": 10, "pruned": 4, HOSTILE: 8}
    paths = [evaluation(f"m{n}", suites=suites(skill)) for n, skill in enumerate(skills.values())]
    teacher, students = open_stages(paths[0], paths[1:], list(skills)[1:])
    return collect(teacher, students, Rules(), above_baseline=False, main=HOSTILE)


@pytest.fixture
def page(found: dict[str, Any]) -> Reader:
    return Reader(render(found))


def value(text: str) -> float:
    return float(re.sub(r"[^\d.−]", "", text).replace("−", "-"))


def test_the_page_is_whole_and_fetches_nothing(found: dict[str, Any], page: Reader) -> None:
    assert page.faults == [] and page.open == []
    assert "http" not in render(found) and "@import" not in render(found)
    assert "src" not in page.attributes and "href" not in page.attributes


def test_hostile_names_are_text(page: Reader) -> None:
    assert not {"script", "img"} & page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 5  # label, task, category, reason
    assert page.text.count("{{ 7 * 7 }}") == page.text.count(HOSTILE)


def test_every_figure_is_that_of_the_results(found: dict[str, Any], page: Reader) -> None:
    checked = 0
    for row in found["rows"]:
        name = {
            "overall": f"overall.{row['student']}",
            "task": f"{row['student']}.{row['suite']}.{row['name']}",
        }.get(row["level"])
        if name:
            assert value(page.figures[name]) == pytest.approx(row["recovery_percent"], abs=0.051)
            low, high = row["recovery_interval_percent"]
            assert f"{low:.1f} to {high:.1f}" in page.remarks[name]
            checked += 1
    assert checked == 2 + 2 * 5
    assert value(page.figures[f"{HOSTILE}.belebele"]) == pytest.approx(0.8)
    assert value(page.figures["teacher.belebele"]) == pytest.approx(1.0)
    change = value(page.figures[f"change.{HOSTILE}"])
    assert change == pytest.approx(40.0, abs=0.051)


def test_what_was_limited_refused_or_not_run_says_so(page: Reader) -> None:
    assert (
        page.text.count("limited to 10 items a task or part") >= 3
    )  # stages, beside the report, tasks
    assert "Limited runs, not to be set beside full ones: belebele." in page.text
    assert "limited: belebele" in page.remarks["overall.pruned"]
    assert "no server" in page.text
    assert "refused" in page.text and "version v4 of the suite, the teacher with v10" in page.text
    assert "schema unverified" in page.text


def test_every_row_of_a_limited_suite_is_marked(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        is_limited = row["suite"] in ("belebele", None) and row["level"] != "category"
        assert row["limited"] == (["belebele"] if is_limited else []), row


def test_the_reports_figures_stand_beside(page: Reader) -> None:
    assert "Belebele, Table 10" in page.text and "94.0" in page.text
    last = page.text[page.text.index("mean of the benchmarks") :].replace("\xa0", " ")
    # its Tables 5 and 10: 94.74 and 94.03 %
    assert "2 of 9; the report’s mean of these: 94.4 %" in last and "90.1 %" in last
    assert page.figures[f"nine.{HOSTILE}"] == page.figures[f"overall.{HOSTILE}"]  # no others ran
    assert "2 of 9" in page.remarks[f"nine.{HOSTILE}"]
    assert "Pruning & Distillation" in page.text  # its Table 14
    assert "plain ratio, student’s score / teacher’s score" in page.text


def test_without_a_teachers_baseline_the_page_says_which_ratio(found: dict[str, Any]) -> None:
    text = Reader(render(found | {"ratio": "above the baseline"})).text
    assert "above a baseline (guessing)" in text


def test_students_have_marks_of_their_own() -> None:
    assert kinds(["distilled", "sft", "aligned"]) == {
        "distilled": "distilled",
        "sft": "extra1",
        "aligned": "extra2",
    }
