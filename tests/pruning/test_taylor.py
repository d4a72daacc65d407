"""A Taylor table keeps what it is given, and refuses what cannot be one."""

import numpy as np
import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import save_arrays
from nemo_bielik.errors import DataError
from nemo_bielik.pruning.taylor import ORDERS, TAYLOR_NAME, TaylorTable, salience_shapes

ARCH = ModelArch(
    name="small",
    vocab_size=8,
    hidden_size=6,
    ffn_hidden_size=5,
    num_layers=3,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)


def make_table(arch=ARCH, **changes):
    generator = np.random.default_rng(0)
    salience = {
        order: {
            name: generator.uniform(size=shape) for name, shape in salience_shapes(arch).items()
        }
        for order in ORDERS
    }
    fields = {"arch": arch, "salience": salience, "samples": 4, "tokens": 99, "model": "sha"}
    return TaylorTable(**fields | changes)


def with_entry(table, order, name, values):
    salience = {key: dict(entries) for key, entries in table.salience.items()}
    salience[order][name] = values
    return {"salience": salience}


def test_every_axis_of_every_tensor_has_an_entry():
    shapes = salience_shapes(ARCH)
    assert shapes["mlp.gate_proj.weight/ffn"] == (3, 5)
    assert shapes["mlp.down_proj.weight/hidden"] == (3, 6)
    assert shapes["self_attn.o_proj.weight/heads"] == (3, 4)
    assert shapes["self_attn.k_proj.weight/groups"] == (3, 2)
    assert shapes["lm_head.weight/hidden"] == (1, 6)
    assert shapes["input_layernorm.weight/layer"] == (3,)
    # 7 projections with two axes and the whole, 2 norms with one and the whole, 3 outside
    assert len(shapes) == 7 * 3 + 2 * 2 + 3
    assert "lm_head.weight/hidden" not in salience_shapes(ARCH.replace(tie_word_embeddings=True))


def test_a_saved_table_is_read_back_bit_for_bit(tmp_path):
    table = make_table()
    table.save(tmp_path / TAYLOR_NAME)
    found = TaylorTable.load(tmp_path / TAYLOR_NAME)
    assert found.arch == table.arch
    assert (found.samples, found.tokens, found.model) == (4, 99, "sha")
    for order in ORDERS:
        for name, values in table.salience[order].items():
            np.testing.assert_array_equal(found.salience[order][name], values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ones((3, 4)), r"has shape \(3, 4\), not \(3, 5\)"),
        (np.full((3, 5), np.nan), "NaN or infinity"),
        (np.full((3, 5), np.inf), "NaN or infinity"),
        (np.full((3, 5), -1.0), "negative"),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_values_that_cannot_be_saliences_are_one_line(order, values, said):
    name = "mlp.gate_proj.weight/ffn"
    with pytest.raises(DataError, match=f"{order}/{name} .*{said}") as caught:
        make_table(**with_entry(make_table(), order, name, values))
    assert "\n" not in str(caught.value)


def test_a_table_without_samples_or_with_other_entries_is_refused():
    with pytest.raises(DataError, match="covers 0 samples"):
        make_table(samples=0)
    with pytest.raises(DataError, match=r"fisher are not those of small \(extra\)"):
        make_table(**with_entry(make_table(), "fisher", "extra", np.ones(3)))
    with pytest.raises(DataError, match="order fisher"):
        make_table(salience={"first": make_table().salience["first"]})


def test_a_file_of_something_else_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no such Taylor table; make one with `bielik score"):
        TaylorTable.load(tmp_path / TAYLOR_NAME)
    path = tmp_path / "other.safetensors"
    save_arrays(path, "score table", {}, {"hidden": np.ones(3)})
    with pytest.raises(DataError, match="is not a Taylor table"):
        TaylorTable.load(path)
    make_table().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is not a Taylor table"):
        TaylorTable.load(path)
    save_arrays(path, "Taylor table", {}, {"second/x": np.ones(3)})
    with pytest.raises(DataError, match="is not a Taylor table of this version") as caught:
        TaylorTable.load(path)
    assert "\n" not in str(caught.value)
