"""The page of a search against the value that it shows."""

import copy
import re
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest

from nemo_bielik.search.page import render
from nemo_bielik.search.verdicts import StabilityLimits

VOID = {"meta", "br", "link", "img", "hr"}
HOSTILE = '<script>alert("x")</script>&'


def trial(step: int, kl: float) -> dict[str, Any]:
    held_out = [[0, 2.0], [1000 * step / 2, 2 * kl], [1000 * step, kl]]
    return {
        "seed": 1,
        "step": step,
        "kl_after_cut": 2.0,
        "kl": kl,
        "recovery": 1 - kl / 2.0,
        "tokens": 1000 * step,
        "seconds": step / 10,
        "curves": {"validation": held_out, "training": [[500, 3 * kl], [1000 * step, kl]]},
    }


def candidate(
    name: str, word: str, reason: str, step: int, kl: float, **sizes: int
) -> dict[str, Any]:
    whole = {"num_layers": 6, "hidden_size": 96, "ffn_hidden_size": 320}
    stability = {
        "judged_steps": 26,
        "gradient_spikes": 2,
        "largest_gradient": 5.25,
        "loss_spikes": 1,
        "largest_loss": 9.5,
        "kl_after_cut": 2.0,
        "kl": kl,
        "incident": "",
    }
    return {
        "name": name,
        **whole,
        "num_attention_heads": 6,
        "num_query_groups": 2,
        **sizes,
        "parameters": 540_000 + step,
        "memory_bytes": 1_500_000,
        "seconds_per_token": 1e-6 * (10 + step),
        "reduction_percent": 40.0,
        "max_lr": None,
        "verdict": {"word": word, "reason": reason, "numbers": {}},
        "stability": [stability] if step else [],
        "trials": [trial(step, kl)] if step else [],
        "tokens": 1000 * step,
        "seconds": step / 10,
    }


def original() -> dict[str, Any]:
    row = candidate("source", "", "", 0, 0.0)
    row.pop("verdict")
    return row | {"parameters": 898_272, "reduction_percent": 0.0}


@pytest.fixture
def found() -> dict[str, Any]:
    """Three candidates: one selected, one stopped, one refused."""
    rounds = [("right after the cut", 0, 2.0, 2.1), ("rung 1", 36, 0.3, 0.5)]
    return {
        "settings": {
            "model": "models/teacher",
            "seeds": [1],
            "judge": asdict(StabilityLimits(window=12, gradient_spike=3.5)),
            "limits": {"device": "H200", "max_parameters": 0.0},
            "candidates": ["source:num_layers=4"],
        },
        "source": original(),
        "selected": "deep",
        "model": "search/trials/deep-seed1",
        "rungs": [
            {"first_step": 0, "last_step": 36, "entrants": 2, "steps": 72},
            {"first_step": 36, "last_step": 108, "entrants": 1, "steps": 72},
        ],
        "rounds": [
            {
                "name": name,
                "step": step,
                "tokens": 1000 * step,
                "order": ["deep", "wide"],
                "kl": {"deep": [deep], "wide": [wide]},
                "kendall_to_round_before": 1.0 if step else None,
                "pareto_front": ["deep"],
            }
            for name, step, deep, wide in rounds
        ],
        "leads": [{"name": "wide", "mean": 0.2, "margin": None, "is_level": None}],
        "forecast": {
            "from_tokens": 36_000.0,
            "from_points": 6,
            "budget_tokens": 108_000,
            "at_budget": {"kl": [0.1, 0.2, 0.3], "recovery": [0.85, 0.9, 0.95]},
            "tokens_for": {"0.9": [90_000.0, 123_456.0, None]},
            "came_to": 0.1234,
        },
        "cost": {
            "tokens": 144_000,
            "exhaustive_tokens": 216_000,
            "share": 2 / 3,
            "training_seconds": 14.4,
        },
        "candidates": [
            candidate("deep", "selected", "lowest held-out KL", 108, 0.1234, num_layers=4),
            candidate("wide", "stopped early", "rank 2 of 2", 36, 0.5, ffn_hidden_size=128),
            candidate("large", "sub-optimal", "too slow: 9 ms", 0, 0.0, ffn_hidden_size=300),
        ],
    }


class Reader(HTMLParser):
    """Collects text, faults of nesting, and the text of elements that name a figure."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.faults: list[str] = []
        self.figures: dict[str, str] = {}
        self.text, self.addresses = "", []  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("data-figure")))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop()[0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if all(tag != "style" for tag, _ in self.open):
            self.text += data
        for _, name in self.open:
            if name:
                self.figures[name] = self.figures.get(name, "") + data.strip()


def read(found: dict[str, Any]) -> Reader:
    reader = Reader()
    reader.feed(render(found))
    return reader


def test_it_is_whole_and_needs_nothing_else(found):
    reader = read(found)
    assert reader.faults == [] and reader.open == []
    assert reader.addresses == []


def test_its_figures_are_those_of_the_search(found):
    figures = read(found).figures
    assert figures["kl"] == "0.1234"
    assert figures["share"].replace("\N{NO-BREAK SPACE}", " ") == "66.7 %"
    assert figures["recovery_percent"].replace("\N{NO-BREAK SPACE}", " ") == "93.8 %"
    assert figures["verdict.deep"] == "selected"
    assert figures["verdict.large"] == "sub-optimal"


def test_every_candidate_is_told_with_its_reason(found):
    text = re.sub(r"\s+", " ", read(found).text)
    for row in found["candidates"]:
        assert row["name"] in text
        assert row["verdict"]["reason"] in text
    assert "123 k" in text and "not by then" in text
    assert "deep is 0.2 nats ahead of wide (one seed" in text
    assert "Rungs end after 36,000, 108,000 tokens" in text
    assert "above 3.5 times the median of the 12 steps before it" in text
    assert "in more than 5% of them" in text and "is 8 deviations above" in text


def test_names_are_escaped(found):
    hostile = copy.deepcopy(found)
    hostile["settings"]["model"] = HOSTILE
    hostile["candidates"][1]["verdict"]["reason"] = HOSTILE
    page = render(hostile)
    assert HOSTILE not in page
    assert HOSTILE in read(hostile).text


def test_what_was_not_measured_is_left_out(found):
    found["forecast"] = None
    found["candidates"][1]["trials"][0]["kl"] = None
    found["candidates"][1]["trials"][0]["recovery"] = None
    found["rounds"][1]["kl"].pop("wide")
    found["rounds"][1]["order"].remove("wide")
    reader = read(found)
    assert reader.faults == []
    assert "How many tokens?" not in reader.text
