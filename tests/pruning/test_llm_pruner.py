"""Aggregation over coupled groups by hand, and the plans that follow."""

import numpy as np
import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.groups import layer_tensors
from nemo_bielik.pruning.llm_pruner import from_table, importance
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.select import select
from nemo_bielik.pruning.taylor import ORDERS, TAYLOR_NAME, TaylorTable, salience_shapes

ARCH = ModelArch(
    name="hand",
    vocab_size=4,
    hidden_size=3,
    ffn_hidden_size=2,
    num_layers=2,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
AGGREGATIONS = ("sum", "prod", "max", "last")


def table_of(order="first", **entries):
    """Return a table of ones in which some entries of one order are given."""
    salience = {
        name: {entry: np.ones(shape) for entry, shape in salience_shapes(ARCH).items()}
        for name in ORDERS
    }
    for entry, values in entries.items():
        salience[order][entry] = np.array(values, dtype=float)
    return TaylorTable(arch=ARCH, salience=salience, samples=1, tokens=1, model="sha")


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("sum", [[11, 8], [3, 15]]),
        ("prod", [[16 ** (1 / 3), 0], [1, 5]]),
        ("max", [[8, 8], [1, 5]]),
        ("last", [[1, 8], [1, 5]]),
    ],
)
def test_an_ffn_channel_has_gate_up_and_down(aggregation, expected):
    table = table_of(
        **{
            "mlp.gate_proj.weight/ffn": [[2, 0], [1, 5]],
            "mlp.up_proj.weight/ffn": [[8, 0], [1, 5]],
            "mlp.down_proj.weight/ffn": [[1, 8], [1, 5]],
        }
    )
    found = from_table(table, "first", aggregation).ffn
    np.testing.assert_allclose(found, expected, rtol=1e-12)


HEADS = {
    "self_attn.q_proj.weight/heads": [[1, 2, 3, 4], [4, 3, 2, 1]],
    "self_attn.o_proj.weight/heads": [[4, 2, 3, 1], [0, 0, 5, 6]],
    "self_attn.k_proj.weight/groups": [[9, 1], [2, 2]],
    "self_attn.v_proj.weight/groups": [[1, 1], [7, 3]],
}


@pytest.mark.parametrize(
    ("aggregation", "heads", "groups"),
    [
        # groups: k + v + q of both heads + o of both heads
        ("sum", [[5, 4, 6, 5], [4, 3, 7, 7]], [[19, 13], [16, 19]]),
        ("max", [[4, 2, 3, 4], [4, 3, 5, 6]], [[9, 7], [7, 11]]),
        ("last", [[4, 2, 3, 1], [0, 0, 5, 6]], [[6, 4], [0, 11]]),
        (
            "prod",
            [[2, 2, 3, 2], [0, 0, 10**0.5, 6**0.5]],
            [[162**0.25, 28**0.25], [0, 198**0.25]],
        ),
    ],
)
def test_a_query_group_has_its_keys_values_and_heads(aggregation, heads, groups):
    found = from_table(table_of(**HEADS), "first", aggregation)
    np.testing.assert_allclose(found.heads, heads, rtol=1e-12)
    np.testing.assert_allclose(found.groups, groups, rtol=1e-12)


def test_a_hidden_channel_has_every_tensor_of_every_layer_and_three_outside():
    values = {
        "model.embed_tokens.weight/hidden": [[1, 2, 3]],
        "lm_head.weight/hidden": [[10, 20, 0]],
        "mlp.down_proj.weight/hidden": [[100, 0, 0], [0, 200, 0]],
    }
    table = table_of(**values)
    ones = len(layer_tensors(ARCH)) * ARCH.num_layers - 2 + 1  # the final norm
    found = {name: from_table(table, "first", name).hidden for name in AGGREGATIONS}
    np.testing.assert_array_equal(found["sum"], [111 + ones, 222 + ones, 3 + ones])
    np.testing.assert_array_equal(found["max"], [100, 200, 3])
    np.testing.assert_array_equal(found["last"], [10, 20, 0])
    np.testing.assert_array_equal(found["prod"], [0, 0, 0])


def test_a_layer_has_all_its_tensors():
    table = table_of(
        **{"self_attn.q_proj.weight/layer": [4, 6], "mlp.down_proj.weight/layer": [9, 2]}
    )
    found = {name: from_table(table, "first", name).layers for name in AGGREGATIONS}
    np.testing.assert_allclose(found["sum"], [4 + 9 + 7, 6 + 2 + 7])
    np.testing.assert_allclose(found["max"], [9, 6])
    np.testing.assert_allclose(found["last"], [9, 2])
    np.testing.assert_allclose(found["prod"], [36 ** (1 / 9), 12 ** (1 / 9)])


@pytest.fixture
def scores(tmp_path):
    """A table whose orders disagree about everything: of two units, fisher keeps the other."""
    rising = {name: np.ones(shape) for name, shape in salience_shapes(ARCH).items()}
    for name, values in rising.items():
        values += np.arange(values.shape[-1])
        if name.endswith("/layer"):
            values[:] = [1, 2]
    salience = {"first": rising, "fisher": {n: v.max() + 1 - v for n, v in rising.items()}}
    table = TaylorTable(arch=ARCH, salience=salience, samples=1, tokens=1, model="sha")
    table.save(tmp_path / TAYLOR_NAME)
    return tmp_path


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(("order", "upper"), [("first", True), ("fisher", False)])
def test_the_target_decides_which_ranking_is_used(scores, order, upper, aggregation):
    def plan(**sizes):
        options = PruneConfig(
            model=scores,
            scores=scores,
            output=scores / "small",
            method="llm-pruner",
            taylor=order,
            aggregation=aggregation,
            **sizes,
        )
        return select(importance(scores, options), ARCH.replace(**sizes))

    assert plan(num_layers=1).layers == [int(upper)]
    assert plan(hidden_size=1).hidden == [2 if upper else 0]
    assert plan(ffn_hidden_size=1).ffn == [[int(upper)]] * 2
    assert plan(num_attention_heads=2).heads == [[1, 3] if upper else [0, 2]] * 2
    groups = plan(num_attention_heads=2, num_query_groups=1)
    assert groups.groups == [[int(upper)]] * 2
    assert groups.heads == [[2, 3] if upper else [0, 1]] * 2
    assert groups.source_model == "sha"


def test_a_directory_without_a_table_is_one_line(tmp_path):
    options = PruneConfig(
        model=tmp_path, scores=tmp_path, output=tmp_path, method="llm-pruner", num_layers=1
    )
    with pytest.raises(DataError, match="no such Taylor table") as caught:
        importance(tmp_path, options)
    assert "\n" not in str(caught.value)
