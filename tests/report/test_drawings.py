"""Pure functions under the drawings: scales, curves, sorted strips, numbers."""

import re

import numpy as np
import pytest

from nemo_bielik.report import curves, dots, importance, svg, wording
from nemo_bielik.report.measures import Spread


def test_text_and_attributes_are_escaped() -> None:
    assert svg.tag("g", "<a>&", class_='x"y') == '<g class="x&#34;y">&lt;a&gt;&amp;</g>'


def test_scales_meet_their_ends_and_ticks_are_round() -> None:
    linear = svg.Scale(0, 0.97, 10, 210)
    assert (linear(0), linear(0.97)) == (10, 210)
    assert linear.ticks(5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    logarithmic = svg.Scale(0.1, 1000, 0, 100, is_log=True)
    assert logarithmic(10) == pytest.approx(50)
    assert logarithmic.ticks(5) == pytest.approx([0.1, 1, 10, 100, 1000])
    assert svg.Scale(3, 3, 0, 10)(3) == 5


def test_thinning_keeps_the_mean_and_the_number_small() -> None:
    points = [(float(n), float(n % 7)) for n in range(1000)]
    thin = curves.thinned(points, most=100)
    assert len(thin) == 100
    assert np.mean([y for _, y in thin]) == pytest.approx(np.mean([y for _, y in points]))
    assert curves.thinned([], most=5) == []


def test_validation_is_placed_by_its_tokens() -> None:
    metrics = [
        {"step": 1, "tokens": 64, "loss": 3.0},
        {"step": 1, "validation_loss": 3.5},
        {"step": 2, "tokens": 128, "loss": 2.0},
        {"step": 2, "validation_loss": 2.5},
    ]
    assert curves.training_points(metrics) == [(64, 3.0), (128, 2.0)]
    assert curves.validation_points(metrics) == [(64, 3.5), (128, 2.5)]
    assert curves.mean_points([[(1, 2.0), (2, 4.0)], [(1, 4.0)]]) == [(1, 3.0)]


def test_kept_channels_come_first_by_importance() -> None:
    scores = np.array([5.0, 1.0, 3.0, 4.0])
    assert importance.kept_first(scores, [1, 2]) == [2, 1, 0, 3]


def test_shades_rise_with_importance_and_survive_zeros() -> None:
    shades = importance.Shades.of(np.geomspace(1, 1000, 500))
    steps = shades(np.geomspace(1, 1000, 50))
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (0, importance.LEVELS - 1)
    assert importance.Shades.of(np.zeros(3))(np.zeros(3)) == [importance.LEVELS // 2] * 3


def test_the_domain_holds_every_seed() -> None:
    rows = [dots.Row("a", "a", {"pruned": Spread((-3.0, 12.0)), "distilled": Spread((104.0,))})]
    assert dots.domain(rows, 0, 100) == (-10, 110)


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (wording.count(11_037_200_384), "11.04 B"),
        (wording.count(614_400), "614 k"),
        (wording.count(9_999), "9,999"),
        (wording.percent(-33.44), "−33.4 %"),
        (wording.percent(-0.01), "0.0 %"),
        (wording.duration(42), "42.0 s"),
        (wording.duration(551.8), "9 min 12 s"),
        (wording.duration(11_100), "3 h 05 min"),
        (wording.size_bytes(22_337_593_344), "22.34 GB"),
        (wording.perplexity(412.3), "412"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_as_people_read_them(shown: str, wanted: str) -> None:
    assert shown.replace("\N{NO-BREAK SPACE}", " ") == wanted


def test_marks_apart_have_lines_names_and_kinds_of_their_own() -> None:
    marks = {"sft": Spread((90.0,)), "Q4": Spread((80.0, 84.0))}
    looks = dots.Looks({"Q4": "four bits"}, {"sft": "extra1", "Q4": "extra2"}, apart=True)
    row = dots.Row("suite", "a suite of a long name, cut", marks, "82.0 %")
    drawn = str(dots.dot_plot([row], "plot", 400.0, 50, 100, looks))
    assert "a suite of a long…</text>" in drawn
    assert "<title>a suite of a long name, cut</title>" in drawn
    assert "four bits: 82.0\N{NO-BREAK SPACE}% (80.0" in drawn and "sft: 90.0" in drawn
    assert 'class="mark extra1"' in drawn and 'class="mark extra2"' in drawn
    whiskers = re.findall(r'y1="([\d.]+)"[^>]*class="whisker"', drawn)
    assert len(set(whiskers)) == 2
