"""The page against the value that it shows: well-formed, self-contained, every figure."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from nemo_bielik.compare.page import render

VOID = {"meta", "br", "link", "img", "hr", "input"}
HOSTILE = '<script>alert("x")</script>&"\''
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


class Reader(HTMLParser):
    """Collects tags, attributes, all text, and the text of elements that name a figure."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str | None]] = []
        self.faults: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.figures: dict[str, str] = {}
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append((tag, values.get("data-figure")))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop()[0] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.open]
        if "style" not in tags:
            self.text += data
        for _, name in self.open:
            if name:
                key = f"{name} small" if "small" in tags else name
                self.figures[key] = self.figures.get(key, "") + data.strip()


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.faults == []
    assert reader.open == []
    return reader


def value(text: str) -> float:
    """Return a number as the page has it: in percent, with a unit, or as minutes and seconds."""
    if "min" in text:
        minutes, seconds = re.fullmatch(r"(\d+) min (\d+) s", text).groups()  # type: ignore[union-attr]
        return 60 * int(minutes) + int(seconds)
    unit = next((factor for unit, factor in UNITS.items() if text.endswith(unit)), 1.0)
    return unit * float(re.sub(r"[^\d.−]", "", text).replace("−", "-"))


def test_nothing_is_fetched(found: dict[str, Any]) -> None:
    page = render(found)
    assert "http" not in page
    assert "@import" not in page
    assert set(re.findall(r"url\(([^)]*)\)", page)) == {"#hatch"}
    for tag, attributes in read(page).tags:
        assert tag not in {"script", "link", "img", "iframe", "object", "image", "use"}
        assert not {"src", "href", "xlink:href", "srcset"} & attributes.keys()


def test_every_figure_of_a_contender_is_in_its_row(found: dict[str, Any]) -> None:
    figures = read(render(found)).figures
    for row in found["contenders"]:
        name = row["name"]
        assert value(figures[f"{name}.weights"]) == row["nonzero_parameters"]
        assert value(figures[f"{name}.weights small"]) == row["parameters"]
        assert value(figures[f"{name}.reduction_percent"]) == pytest.approx(
            row["reduction_percent"], abs=0.051
        )
        seconds = row["score_seconds"] + row["prune_seconds"]
        parts = [value(part) for part in figures[f"{name}.seconds small"].split(" + ")]
        assert parts == pytest.approx([row["score_seconds"], row["prune_seconds"]], abs=0.51)
        assert value(figures[f"{name}.seconds"]) == pytest.approx(seconds, abs=0.51)
        recovery = value(figures[f"{name}.recovery_seconds"])
        assert recovery == pytest.approx(row["recovery_seconds"], abs=0.51)
        assert value(figures[f"{name}.added_bytes"]) == pytest.approx(row["added_bytes"], rel=0.01)
        for moment in ("pruned", "recovered"):
            for measure, scale in (
                ("minimal_pairs_accuracy", 100),
                ("fact_accuracy", 100),
                ("share_percent", 1),
            ):
                shown = value(figures[f"{name}.{moment}.{measure}"])
                assert shown == pytest.approx(scale * row[moment][measure], abs=0.051)
            shown = value(figures[f"{name}.{moment}.perplexity"])
            assert shown == pytest.approx(row[moment]["perplexity"], abs=0.0051)


def test_the_words_of_a_contender_are_in_its_row(found: dict[str, Any]) -> None:
    reader = read(render(found))
    for row in found["contenders"]:
        assert row["paper"] in reader.text
        assert reader.figures[f"{row['name']}.cut small"] == row["granularity"]
    assert reader.figures["minitron.cut"] == "5 layers, 192 ffn channels"
    assert reader.figures["sparsegpt@2:4.cut"] == "2:4 kept"
    sparsity = next(r["cut"]["sparsity"] for r in found["contenders"] if r["name"] == "wanda")
    assert value(reader.figures["wanda.cut"]) == pytest.approx(100 * sparsity, abs=0.051)


def test_the_head_says_what_was_compared(found: dict[str, Any]) -> None:
    reader = read(render(found))
    figures = reader.figures
    assert value(figures["model.parameters.all"]) == found["model"]["parameters"]
    assert value(figures["model.perplexity"]) == pytest.approx(
        found["model"]["perplexity"], abs=0.01
    )
    assert value(figures["contenders"]) == 9
    assert value(figures["calibration_tokens"]) == 16
    assert value(figures["recovery_tokens"]) == 164
    assert value(figures["target_parameters"]) == round(found["target_parameters"] / 1000)
    chance = 100 * found["model"]["fact_chance"]
    (guessed,) = re.findall(r"candidate\. Guessing gives ([\d.]+)", reader.text)
    assert float(guessed) == pytest.approx(chance, abs=0.051)


def test_zeros_are_told_of_those_who_make_them(found: dict[str, Any]) -> None:
    wanda = next(row for row in found["contenders"] if row["name"] == "wanda")
    wanda["zeros_after_recovery"] += 3
    figures = read(render(found)).figures
    made = wanda["parameters"] - wanda["nonzero_parameters"]
    assert value(figures["wanda.zeros"]) == made + 3
    assert value(figures["wanda.zeros small"]) == made
    assert figures["minitron.zeros"] == "–"


def test_every_drawing_has_a_row_for_every_contender(found: dict[str, Any]) -> None:
    reader = read(render(found))
    rows = [attributes["data-row"] for _, attributes in reader.tags if "data-row" in attributes]
    names = [row["name"] for row in found["contenders"]]
    assert sorted(rows) == sorted(5 * names)


def test_contenders_stand_by_what_they_recovered(found: dict[str, Any]) -> None:
    page = render(found)
    table = re.findall(r'data-figure="(\S+)\.recovered\.share_percent"', page)
    shares = {row["name"]: row["recovered"]["share_percent"] for row in found["contenders"]}
    named = [name for name in table if name != "model"]
    assert named == sorted(shares, key=lambda name: -shares[name])


def test_zeros_without_special_kernels_are_no_gain_said_once(found: dict[str, Any]) -> None:
    assert read(render(found)).text.count("as large and as slow as the original") == 1
    found["contenders"] = found["contenders"][:4]
    assert "as large and as slow" not in render(found)


def test_hostile_names_are_escaped(found: dict[str, Any]) -> None:
    found["model"]["name"] = HOSTILE
    for row, changed in zip(found["contenders"], ("name", "paper", "granularity"), strict=False):
        row[changed] = HOSTILE
    found["target"] = {HOSTILE: 3}
    reader = read(render(found))
    assert "script" not in {tag for tag, _ in reader.tags}
    assert reader.text.count(HOSTILE) > 6
    assert HOSTILE in {attributes.get("data-row") for _, attributes in reader.tags}


def test_without_tasks_perplexity_decides(found_without_tasks: dict[str, Any]) -> None:
    reader = read(render(found_without_tasks))
    original = found_without_tasks["model"]["perplexity"]
    assert "Guessing" not in reader.text
    for row in found_without_tasks["contenders"]:
        assert reader.figures[f"{row['name']}.recovered.share_percent"] == "–"
        assert f"{row['recovered']['perplexity'] / original:.2f}\N{NO-BREAK SPACE}×" in reader.text


@pytest.mark.parametrize("index", [0, 5, 8])
def test_one_contender_is_a_page_too(found: dict[str, Any], index: int) -> None:
    found["contenders"] = [found["contenders"][index]]
    (row,) = found["contenders"]
    reader = read(render(found))
    (heading,) = re.findall(r"^(\S+): [\d.]+\s%", reader.text, re.MULTILINE)
    assert heading == row["name"]
    assert "contender" in reader.text
