"""What a comparison refuses before it starts anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.compare.stage import CompareConfig, describe
from nemo_bielik.errors import BielikError, ConfigError
from nemo_bielik.shape import Shape


@pytest.fixture
def settings(make_model: Callable[..., Path], tmp_path: Path) -> dict[str, Any]:
    names = ("calibration", "train_data", "validation_data")
    return {
        "model": make_model(seed=5),
        "texts": [tmp_path / "text.jsonl"],
        "output": tmp_path / "comparison",
        "target": Shape(num_layers=3),
        **{name: tmp_path / name for name in names},
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": Shape()}, "target is empty"),
        ({"texts": []}, "texts is empty"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["wanda", "wanda"]}, "a contender twice"),
        ({"lanes": 0}, "lanes is 0"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    settings: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        CompareConfig(**settings | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": Shape(num_layers=99)}, "num_layers is 99; it can be at most the model's 4"),
        ({"methods": ["wanda@5:7"]}, "5:7 does not fit"),
        ({"methods": ["sparsegpt@lora"]}, "only structured methods recover through @lora"),
        ({}, r"calibration: holds no tokens\.idx"),
    ],
)
def test_what_the_model_or_the_disk_refuses_is_said_by_the_dry_run(
    settings: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BielikError, match=said) as caught:
        describe(CompareConfig(**settings | changes))
    assert "\n" not in str(caught.value)
    assert not settings["output"].exists()
