"""The mask table: what it holds, what it refuses, and the plan that comes of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import BielikError, ConfigError, DataError
from nemo_bielik.pruning import hard_concrete
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.select import select
from nemo_bielik.pruning.sheared_llama import MASKS_NAME, MaskTable, from_table, importance

ARCH = ModelArch(
    name="hand",
    vocab_size=8,
    hidden_size=4,
    ffn_hidden_size=3,
    num_layers=2,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
UP, DOWN = 12.0, -12.0
CUTS = {
    "num_layers": 1,
    "hidden_size": 3,
    "ffn_hidden_size": 2,
    "num_attention_heads": 1,
    "num_query_groups": 1,
}


def hand_masks() -> dict[str, np.ndarray]:
    """log α of units that are all decided: layer 1, and in it what `test_the_plan…` names."""
    return {
        "layers": np.array([DOWN, UP]),
        "hidden": np.array([UP, UP, DOWN, UP]),
        "ffn": np.array([[UP, UP, DOWN], [UP, DOWN, UP]]),
        "groups": np.array([[UP, DOWN], [DOWN, UP]]),
        "heads": np.array([[[UP, DOWN], [DOWN, UP]], [[UP, DOWN], [DOWN, UP]]]),
    }


def table(log_alpha: dict[str, np.ndarray], target: ModelArch, **changes: Any) -> MaskTable:
    def each(function: Any) -> dict[str, np.ndarray]:
        return {name: function(torch.tensor(x)).numpy() for name, x in log_alpha.items()}

    fields = {
        "arch": ARCH,
        "target": target,
        "log_alpha": log_alpha,
        "open_probability": each(hard_concrete.open_probability),
        "expected": each(hard_concrete.expected_value),
        "model": "fingerprint",
    }
    return MaskTable(**fields | changes)


def whole_table() -> MaskTable:
    return table(hand_masks(), ARCH.replace(**CUTS))


def options(**sizes: int) -> PruneConfig:
    folders = {"model": Path("model"), "output": Path("output"), "scores": Path("scores")}
    return PruneConfig(**folders, method="sheared-llama", **sizes)


def test_the_plan_keeps_what_stayed_open(tmp_path):
    whole_table().save(tmp_path / MASKS_NAME)
    found = importance(tmp_path, options(**CUTS))
    plan = select(found, ARCH.replace(**CUTS))
    assert (plan.layers, plan.hidden, plan.ffn) == ([1], [0, 1, 3], [[0, 2]])
    assert (plan.groups, plan.heads) == ([[1]], [[3]])
    assert plan.source_model == "fingerprint"


def test_a_table_comes_back_from_disk_as_it_was(tmp_path):
    written = whole_table()
    written.save(tmp_path / MASKS_NAME)
    read = MaskTable.load(tmp_path / MASKS_NAME)
    assert (read.arch, read.target, read.model) == (written.arch, written.target, written.model)
    for field in ("log_alpha", "open_probability", "expected"):
        for name, array in getattr(written, field).items():
            found = getattr(read, field)[name]
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, array)


def test_kinds_of_which_none_goes_are_not_ranked():
    ffn_only = {"ffn": hand_masks()["ffn"]}
    found = from_table(table(ffn_only, ARCH.replace(ffn_hidden_size=2)))
    assert found.ffn is not None
    assert (found.layers, found.hidden, found.heads, found.groups) == (None,) * 4


def test_whole_groups_can_go_without_a_ranking_of_heads():
    sizes = {"num_attention_heads": 2, "num_query_groups": 1}
    found = from_table(table({"groups": hand_masks()["groups"]}, ARCH.replace(**sizes)))
    plan = select(found, ARCH.replace(**sizes))
    assert (plan.groups, plan.heads) == ([[0], [1]], [[0, 1], [2, 3]])


def test_log_alpha_orders_what_saturated():
    """E[z] of 40 and 60 is 1 in float64; the better one stays all the same."""
    masks = {"hidden": np.array([60.0, 40.0, 60.0, 60.0])}
    saturated = table(masks, ARCH.replace(hidden_size=3))
    assert saturated.expected["hidden"].tolist() == pytest.approx([1.0] * 4, abs=1e-14)
    assert select(from_table(saturated), saturated.target).hidden == [0, 2, 3]


def test_a_shape_that_is_met_has_no_misses():
    assert whole_table().misses() == []
    assert whole_table().undecided() == dict.fromkeys(hand_masks(), 0.0)
    assert whole_table().kept_layers() == [1]


def test_a_shape_that_is_missed_is_told_by_place():
    masks = hand_masks()
    masks["hidden"][2] = UP
    masks["ffn"][1, 1] = UP
    masks["ffn"][0] = UP  # in the layer that goes: binds nothing
    masks["heads"][1, 1] = DOWN
    assert table(masks, ARCH.replace(**CUTS)).misses() == [
        "hidden: 4.00 open where 3 are to be",
        "ffn of layer 1: 3.00 open where 2 are to be",
        "heads of layer 1, group 1: 0.00 open where 1 are to be",
    ]


def test_the_learned_size_is_the_expected_number_of_open_units():
    """P(z ≠ 0) of ½ at log α = −⅔ log 11: 2 · 1 + 2 · ½ units are 3, though nothing is decided."""
    even = -2 / 3 * np.log(11)
    half = table({"hidden": np.array([UP, even, UP, even])}, ARCH.replace(hidden_size=3))
    np.testing.assert_allclose(half.open_probability["hidden"], [1, 0.5, 1, 0.5], atol=1e-5)
    assert half.misses() == []
    # E[z] there is below ½, so one of the three that stay is on the other side
    assert half.undecided() == {"hidden": 0.25}


def test_masks_for_another_shape_are_refused(tmp_path):
    whole_table().save(tmp_path / MASKS_NAME)
    said = "masks were learned for num_layers 1, hidden_size 3, .*, not for num_layers 2, "
    with pytest.raises(ConfigError, match=said) as caught:
        importance(tmp_path, options(**CUTS | {"num_layers": 2}))
    assert "\n" not in str(caught.value)


def without(name: str) -> dict[str, np.ndarray]:
    return {key: x for key, x in hand_masks().items() if key != name}


def test_tables_that_cannot_be_are_one_line(tmp_path):
    target = ARCH.replace(**CUTS)
    attempts = {
        "log_alpha has .*, not ": lambda: table(without("heads"), target),
        "expected has ": lambda: table(hand_masks(), target, expected={}),
        "holds NaN or infinity; .* lower shearing.mask_lr": lambda: table(
            hand_masks() | {"hidden": np.array([np.nan, 0, 0, 0])}, target
        ),
        "no such mask table; make one with `bielik score --method sheared-llama`": lambda: (
            MaskTable.load(tmp_path / "nothing")
        ),
        "is not a mask table": lambda: MaskTable.load(Path(__file__)),
    }
    for said, attempt in attempts.items():
        with pytest.raises(DataError, match=said) as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, BielikError)


def test_a_file_with_unknown_fields_is_refused(tmp_path):
    from nemo_bielik.artifact_files import save_arrays

    header = {"arch": vars(ARCH), "target": vars(ARCH), "model": ""}
    save_arrays(tmp_path / "odd", "mask table", header, {"weights.ffn": np.zeros(3)})
    with pytest.raises(DataError, match="odd: is not a mask table of this version"):
        MaskTable.load(tmp_path / "odd")
