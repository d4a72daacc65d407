"""Constraints, multipliers and domain weights against values by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning.shearing import (
    ShearingConfig,
    domain_names,
    drawn_domains,
    lagrangian,
    mask_shapes,
    open_counts,
    target_shape,
    tolerance,
    updated_weights,
    warmed_up,
)
from nemo_bielik.shape import Shape

ARCH = ModelArch(
    name="hand",
    vocab_size=8,
    hidden_size=8,
    ffn_hidden_size=10,
    num_layers=4,
    num_attention_heads=6,
    num_query_groups=2,
    head_dim=2,
)


def test_only_what_is_cut_has_constraints():
    cut = target_shape(ARCH, Shape(num_layers=3, ffn_hidden_size=7))
    assert open_counts(ARCH, cut) == {"layers": (4, 3), "ffn": (10, 7)}


def test_heads_are_counted_within_their_group():
    every = target_shape(ARCH, Shape(hidden_size=6, num_attention_heads=2, num_query_groups=1))
    assert open_counts(ARCH, every) == {"hidden": (8, 6), "groups": (2, 1), "heads": (3, 2)}
    whole_groups = target_shape(ARCH, Shape(num_attention_heads=3, num_query_groups=1))
    assert open_counts(ARCH, whole_groups) == {"groups": (2, 1)}


def test_masks_have_one_entry_a_unit():
    shapes = mask_shapes(ARCH)
    assert shapes == {
        "layers": (4,),
        "hidden": (8,),
        "ffn": (4, 10),
        "groups": (4, 2),
        "heads": (4, 2, 3),
    }


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (Shape(), "shearing.target cuts nothing; give .* shearing.target.num_layers=40"),
        (Shape(num_layers=4), "cuts nothing"),
        (Shape(num_layers=5), "shearing.target: num_layers is 5; it can be at most the model's 4"),
        (Shape(num_query_groups=1), "6 heads in 1 query group"),
        (Shape(num_attention_heads=5), "num_attention_heads"),
    ],
)
def test_targets_that_cannot_be_are_one_line(shape, said):
    with pytest.raises(ConfigError, match=said) as caught:
        target_shape(ARCH, shape)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"iters": 0}, "shearing.iters is 0; it must be at least 1"),
        ({"batch_size": 0}, "shearing.batch_size is 0"),
        ({"mask_lr": 0.0}, "shearing.mask_lr is 0.0; it must be finite and above 0"),
        ({"multiplier_lr": math.nan}, "shearing.multiplier_lr is nan"),
        ({"warmup_share": 1.0}, "shearing.warmup_share is 1.0"),
        ({"update_interval": 0}, "shearing.update_interval is 0"),
        ({"evaluation_samples": 0}, "shearing.evaluation_samples is 0"),
        ({"save_interval": -1}, r"shearing.save_interval is -1; it must be 0 \(never\) or more"),
        ({"proportions": [1.0, 1.0]}, "proportions has 2 values; give one for data and .* 0 dom"),
        ({"domains": [Path("b")], "proportions": [1.0, 0.0]}, "must be above 0"),
    ],
)
def test_bad_settings_are_one_line(changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        ShearingConfig(**changes)
    assert "\n" not in str(caught.value)


def test_the_target_is_approached_in_a_straight_line():
    assert [warmed_up(0.6, step, 4) for step in (0, 1, 2, 4, 9)] == pytest.approx(
        [1.0, 0.9, 0.8, 0.6, 0.6]
    )
    assert warmed_up(0.6, 0, 0) == 0.6


def test_few_units_must_be_met_to_half_a_unit():
    assert [tolerance(units) for units in (2, 250, 14_000)] == [0.5, 0.5, 28.0]


def test_the_lagrangian_and_its_slopes_by_hand():
    shares = {"layers": torch.tensor(0.9), "ffn": torch.tensor([0.5, 0.8])}
    linear = {"layers": torch.tensor(2.0), "ffn": torch.tensor([1.0, -3.0])}
    quadratic = {"layers": torch.tensor(10.0), "ffn": torch.tensor([4.0, 0.0])}
    leaves = [*shares.values(), *linear.values(), *quadratic.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    total = lagrangian(shares, {"layers": 0.8, "ffn": 0.6}, linear, quadratic)
    # 2·0.1 + 10·0.01  +  1·(−0.1) + 4·0.01  +  (−3)·0.2
    assert total.item() == pytest.approx(0.2 + 0.1 - 0.1 + 0.04 - 0.6)
    total.backward()
    slopes = [leaf.grad.flatten().tolist() for leaf in leaves]
    assert slopes[:2] == [  # λ + 2φ(ŝ − t)
        pytest.approx([2 + 20 * 0.1]),
        pytest.approx([1 + 8 * -0.1, -3.0]),
    ]
    assert slopes[2:4] == [pytest.approx([0.1]), pytest.approx([-0.1, 0.2])]  # ŝ − t
    assert slopes[4:] == [pytest.approx([0.01]), pytest.approx([0.01, 0.04])]  # (ŝ − t)²


def test_a_domain_that_was_hurt_weighs_more():
    # excess log 2 and 0: ½·2 against ½·1; a domain that got better counts as unharmed
    found = updated_weights([0.5, 0.5], [2 + math.log(2), 1.0], [2.0, 1.5])
    assert found == pytest.approx([2 / 3, 1 / 3])
    # excess log 3, log 2 and 0 on weights 1 : 3 : 2 → 3 : 6 : 2
    losses = [1 + math.log(3), 1 + math.log(2), 1.0]
    assert updated_weights([1 / 6, 3 / 6, 2 / 6], losses, [1.0] * 3) == pytest.approx(
        [3 / 11, 6 / 11, 2 / 11]
    )


def test_a_loss_beyond_all_bounds_overflows_nothing():
    assert updated_weights([0.5, 0.5], [5000.0, 1.0], [1.0, 1.0]) == [1.0, 0.0]


def test_sequences_are_drawn_by_the_weights_and_the_same_again():
    weights = [0.7, 0.2, 0.1]
    drawn = drawn_domains(weights, 20_000, seed=3, step=5)
    shares = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(shares, weights, atol=5 * math.sqrt(0.25 / 20_000))
    assert drawn == drawn_domains(weights, 20_000, seed=3, step=5)
    assert drawn[:50] != drawn_domains(weights, 20_000, seed=3, step=6)[:50]
    assert drawn[:50] != drawn_domains(weights, 20_000, seed=4, step=5)[:50]


def test_domains_are_called_by_their_directories():
    assert domain_names(Path("a/polish"), [Path("b/law")]) == ["polish", "law"]
    with pytest.raises(ConfigError, match="2 directories are called 'polish'"):
        domain_names(Path("a/polish"), [Path("b/polish")])
