"""Cards by their published figures, and fits reckoned by hand."""

import json

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.cards import (
    CARDS,
    CardsConfig,
    bits_per_weight,
    card_or_device,
    fit,
    longest_context,
    print_cards,
    stored_bytes,
)

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "gigabytes_per_second"),
    [
        ("RTX-3090", 936),
        ("RTX-4090", 1008),
        ("RTX-4080", 716.8),
        ("RTX-5080", 960),
        ("RTX-5060-TI-16GB", 448),
        ("RTX-A4000", 448),
        ("T4", 320),
        ("L4", 300),
        ("RTX-PRO-6000-MAX-Q", 1792),
    ],
)
def test_bus_and_data_rate_give_the_published_bandwidth(
    name: str, gigabytes_per_second: float
) -> None:
    assert CARDS[name].bandwidth == pytest.approx(1e9 * gigabytes_per_second)


def test_inline_error_correction_takes_a_sixteenth() -> None:
    assert CARDS["T4"].memory_bytes == 15 * GIB  # drivers show 15,360 MiB
    assert CARDS["RTX-4090"].memory_bytes == 24 * GIB


def test_the_students_16_bit_weights_by_hand() -> None:
    """40 layers of attention 4096 × (4096 + 1024 + 1024 + 4096) and three 4096 × 11264, 2 norms."""
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 11264 + 2 * 4096
    parameters = 40 * layer + 2 * 32128 * 4096 + 4096
    assert stored_bytes(BIELIK_MINITRON_7B, "bf16") == 2 * parameters
    # at 8.5 bits all but the norms, which stay at 32
    norms = 40 * 2 * 4096 + 4096
    expected = ((parameters - norms) * 34 * 8 / 32 + norms * 32) / 8
    assert stored_bytes(BIELIK_MINITRON_7B, "q8_0") == round(expected)
    assert bits_per_weight(BIELIK_MINITRON_7B, "q8_0") == pytest.approx(8.5, abs=0.01)


def test_the_context_that_is_left_by_hand() -> None:
    card, config = CARDS["RTX-4080"], CardsConfig(overhead_gib=1.0, sequences=2)
    per_token = 2 * 2 * 40 * 8 * 128 * 2  # two sequences, keys and values, layers, heads, bytes
    free = 15 * GIB - stored_bytes(BIELIK_MINITRON_7B, "bf16")
    found = longest_context(BIELIK_MINITRON_7B, "bf16", card, config)
    assert found == free // per_token < 32768


def test_the_limits_of_a_fit() -> None:
    config = CardsConfig()
    assert longest_context(BIELIK_11B_V3, "bf16", CARDS["RTX-4080"], config) == 0
    # never more than the model's positions, however much is free
    assert longest_context(BIELIK_11B_V3, "nvfp4", CARDS["RTX-4090"], config) == 32768


def test_a_card_fits_if_the_context_asked_for_does(capsys: pytest.CaptureFixture[str]) -> None:
    found = fit(CardsConfig(models=("bielik-minitron-7b",), formats=("bf16",), context=3000))
    [row] = found["models"][0]["formats"]
    longest = row["longest_context"]
    assert row["fits"] == [name for name in longest if longest[name] >= 3000]
    assert "T4" not in row["fits"] and "RTX-4090" in row["fits"]
    assert {card["name"] for card in found["cards"]} == set(longest)
    assert "RTX-PRO-6000-MAX-Q" not in longest  # 96 GB: not one of the cards in question
    print_cards(CardsConfig(json=True))
    assert json.loads(capsys.readouterr().out)["context"] == 8192
    print_cards(CardsConfig())
    assert "(3,746)" in capsys.readouterr().out  # the student in bf16 on 16 GiB


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"context": 0}, "context is 0; it must be at least 1"),
        ({"context": 40_000}, "knows 32768 positions"),
        ({"formats": ("q4",)}, r"no 'q4'.*known are bf16"),
        ({"overhead_gib": -1.0}, "must be 0 or more"),
        ({"cache_precision": "int8"}, "known are bf16, fp8"),
    ],
)
def test_bad_settings_are_one_line(changes: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        fit(CardsConfig(**changes))  # type: ignore[arg-type]


def test_a_device_is_found_in_either_table() -> None:
    assert card_or_device("rtx 4090").bandwidth == pytest.approx(1.008e12)
    assert card_or_device("h200").bandwidth == 4.8e12
    with pytest.raises(ConfigError, match=r"no GPU 'RTX-409'.*did you mean 'RTX-4090'"):
        card_or_device("RTX-409")
