"""The page against the artifacts: well-formed, self-contained, the same figures."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.artifacts import PLAN_NAME, PruningPlan
from nemo_bielik.planner.parameters import count_one_embedding, count_parameters
from nemo_bielik.report.gather import read_run
from nemo_bielik.report.page import render
from nemo_bielik.runs import Run

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags in order, attributes, and the text of elements that name a figure."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: dict[str, str] = {}
        self.text = ""
        self.inside: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag in VOID:
            return
        self.open.append(tag)
        self.inside.append(values.get("data-figure"))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self.open[-1:]}")
            return
        self.open.pop()
        self.inside.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        name = next((name for name in self.inside if name), None)
        if name and "small" not in self.open:
            self.figures[name] = self.figures.get(name, "") + data.strip()


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    return reader


def value(text: str) -> float:
    return float(re.sub(r"[^\d.−]", "", text).replace("−", "-"))


@pytest.fixture(scope="module")
def page(finished_run: Path) -> str:
    return render(read_run(finished_run))


def test_tags_are_balanced(page: str) -> None:
    reader = read(page)
    assert reader.faults == []
    assert reader.open == []


def test_nothing_is_fetched(page: str) -> None:
    assert "http" not in page
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) == {"#hatch"}
    for tag, attributes in read(page).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "image", "use"}
        assert not {"src", "href", "xlink:href", "srcset"} & attributes.keys()


def test_ids_are_unique(page: str) -> None:
    ids = [attributes["id"] for _, attributes in read(page).tags if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))
    assert "hatch" in ids


@pytest.mark.parametrize("kind", ["distilled", "label_trained", "from_scratch"])
def test_scores_are_the_mean_of_the_evaluations(page: str, finished_run: Path, kind: str) -> None:
    figures = read(page).figures
    found = [
        json.loads((Run(finished_run).evaluation(f"{kind}-seed{n}") / "results.json").read_text())
        for n in (1, 2, 3)
    ]
    for measure, scale, places in (
        ("perplexity", 1, 2),
        ("minimal_pairs_accuracy", 100, 1),
        ("fact_accuracy", 100, 1),
    ):
        mean = sum(record[measure] for record in found) / 3 * scale
        assert value(figures[f"{kind}.{measure}"]) == pytest.approx(mean, abs=0.51 * 10**-places)


def test_recovery_by_hand(page: str) -> None:
    """Teacher 0.982 and 0.947, baseline 0.571 and 0.118, distilled 0.967 and 0.861."""
    pairs = 100 * (0.967 - 0.571) / (0.982 - 0.571)
    facts = 100 * (0.861 - 0.118) / (0.947 - 0.118)
    figures = read(page).figures
    assert value(figures["distilled.recovery.grammar"]) == pytest.approx(pairs, abs=0.051)
    assert value(figures["distilled.recovery.facts"]) == pytest.approx(facts, abs=0.051)
    assert value(figures["recovery_percent"]) == pytest.approx((pairs + facts) / 2, abs=0.051)
    assert figures["teacher.recovery.all"] == "100.0\N{NO-BREAK SPACE}%"


def test_sizes_are_those_of_the_plan(page: str, plan: PruningPlan) -> None:
    figures = read(page).figures
    for name, arch in (("teacher", plan.source), ("pruned", plan.target)):
        assert value(figures[f"{name}.params"]) == count_parameters(arch)
        assert value(figures[f"{name}.params_one_embedding"]) == count_one_embedding(arch)
        for field in ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads"):
            assert value(figures[f"{name}.{field}"]) == getattr(arch, field)


def test_dropped_layers_are_marked_as_in_the_plan(page: str, plan: PruningPlan) -> None:
    dropped = set(range(plan.source.num_layers)) - set(plan.layers)
    marked: dict[str, list[int]] = {}
    for _, attributes in read(page).tags:
        if "data-layer" in attributes:
            state = attributes["class"].split()[-1]
            marked.setdefault(state, []).append(int(attributes["data-layer"]))
    assert dropped == {4, 5, 6}
    assert sorted(marked["dropped"]) == sorted(2 * list(dropped))  # in the stack and the strips
    assert sorted(marked["kept"]) == sorted(2 * plan.layers)
    sources = [int(a["data-from"]) for _, a in read(page).tags if "data-from" in a]
    assert sorted(sources) == plan.layers
    assert page.count(">dropped</text>") == 2 * len(dropped)


def test_every_phenomenon_and_relation_has_a_row(page: str) -> None:
    rows = [attributes["data-row"] for _, attributes in read(page).tags if "data-row" in attributes]
    assert {"verb_case", "past_gender", "lives_in", "studied", "distilled"} <= set(rows)
    assert len(rows) == 4 + 8 + 5


def test_hostile_strings_are_escaped(
    new_run: Path, store_json: Callable[[Path, Any], None]
) -> None:
    bad = '<script>alert("x")</script>&"\''
    run = Run(new_run)
    summary = json.loads(run.summary.read_text())
    summary["targets"] = [{"name": bad, "wanted": bad, "got": bad, "met": False}]
    store_json(run.summary, summary)
    results = {"by_phenomenon": {bad: {"accuracy": 0.5, "items": 2}}, "perplexity": 4.0}
    store_json(run.evaluation("teacher") / "results.json", results)
    saved = json.loads((run.model("pruned") / PLAN_NAME).read_text())
    saved["source"]["name"] = bad
    store_json(run.model("pruned") / PLAN_NAME, saved)
    reader = read(render(read_run(new_run)))
    assert reader.faults == []
    assert "script" not in {tag for tag, _ in reader.tags}
    assert bad in reader.text
    assert bad in {attributes.get("data-row") for _, attributes in reader.tags}


def test_a_plan_of_another_model_marks_no_score(
    new_run: Path, store_json: Callable[[Path, Any], None], plan: PruningPlan
) -> None:
    path = Run(new_run).model("pruned") / PLAN_NAME
    saved = json.loads(path.read_text())
    saved["source"]["num_layers"] += 2
    store_json(path, saved)
    reader = read(render(read_run(new_run)))
    layers = [a for _, a in reader.tags if "data-layer" in a]
    scored = plan.source.num_layers
    assert len(layers) == scored + (scored + 2)
    assert sum("dropped" in a["class"] for a in layers) == scored + 2 - len(plan.layers)
