import re

import pytest
import torch

from nemo_bielik.arch import BIELIK_11B_V3
from nemo_bielik.errors import CheckpointError
from nemo_bielik.nemo2.conversion import rows, to_hugging_face, to_megatron
from nemo_bielik.tensors import tensor_rows

ARCH = BIELIK_11B_V3.replace(
    name="small",
    vocab_size=5,
    hidden_size=3,
    ffn_hidden_size=2,
    num_layers=2,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
SEPARATE: list[str] = []
FUSED = ["decoder.layers.0.self_attention.linear_qkv.layer_norm_weight"]


def tensors():
    """Every tensor of `ARCH`, all numbers different."""
    made, start = {}, 0
    for row in tensor_rows(ARCH):
        made[row.name] = torch.arange(start, start + row.numel).float().view(row.shape)
        start += row.numel
    return made


def parameters(norms):
    return [row.target for row in rows(ARCH, norms)]


def convert(norms, source=None):
    source = source or tensors()
    return to_megatron(ARCH, source.keys(), source.__getitem__, parameters(norms))


@pytest.mark.parametrize("norms", [SEPARATE, FUSED])
def test_there_and_back(norms):
    source = tensors()
    back = dict(to_hugging_face(ARCH, convert(norms)))
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in source.items())


def test_every_group_has_its_queries_then_its_key_then_its_value():
    source, prefix = tensors(), "model.layers.1.self_attn."
    query, key, value = (source[f"{prefix}{which}_proj.weight"] for which in "qkv")
    joined = convert(SEPARATE)["decoder.layers.1.self_attention.linear_qkv.weight"]
    # two heads a group, two rows a head
    by_hand = [query[:4], key[:2], value[:2], query[4:], key[2:], value[2:]]
    assert torch.equal(joined, torch.cat(by_hand))


def test_the_gate_lies_above_the_up_projection():
    source = tensors()
    joined = convert(SEPARATE)["decoder.layers.0.mlp.linear_fc1.weight"]
    assert torch.equal(joined[:2], source["model.layers.0.mlp.gate_proj.weight"])
    assert torch.equal(joined[2:], source["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize(
    ("norms", "attention", "mlp"),
    [
        (SEPARATE, "input_layernorm.weight", "pre_mlp_layernorm.weight"),
        (FUSED, "self_attention.linear_qkv.layer_norm_weight", "mlp.linear_fc1.layer_norm_weight"),
    ],
)
def test_norms_go_where_the_model_has_them(norms, attention, mlp):
    source, made = tensors(), convert(norms)
    for layer in range(ARCH.num_layers):
        ours, theirs = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        assert torch.equal(made[theirs + attention], source[f"{ours}input_layernorm.weight"])
        assert torch.equal(made[theirs + mlp], source[f"{ours}post_attention_layernorm.weight"])


def refused(names, parameter_names):
    with pytest.raises(CheckpointError) as caught:
        to_megatron(ARCH, names, tensors().__getitem__, parameter_names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_unmatched_tensors_are_named():
    names, known = [*tensors(), "model.layers.0.mlp.gate_proj.bias"], parameters(SEPARATE)
    line = refused(names, known)
    assert (
        "tensors that no row of the conversion matches: model.layers.0.mlp.gate_proj.bias" in line
    )


def test_missing_tensors_are_named():
    names = sorted(tensors().keys() - {"model.norm.weight"})
    assert "missing tensors: model.norm.weight" in refused(names, parameters(SEPARATE))


def test_unmatched_parameters_are_named():
    """A norm under a name that is not the expected one is both unmatched and missing."""
    known = [name.replace("0.pre_mlp_layernorm", "0.other") for name in parameters(SEPARATE)]
    line = refused(tensors().keys(), known)
    assert "no row of the conversion matches: decoder.layers.0.other.weight;" in line
    assert re.search("missing parameters: decoder.layers.0.pre_mlp_layernorm.weight;", line)


def test_a_deeper_model_than_its_tensors_is_refused():
    known = [*parameters(SEPARATE), "decoder.layers.2.mlp.linear_fc2.weight"]
    assert "decoder.layers.2.mlp.linear_fc2.weight" in refused(tensors().keys(), known)


def test_the_way_back_refuses_too():
    made = convert(FUSED) | {"decoder.layers.0.mlp.linear_fc1.bias": torch.zeros(4)}
    with pytest.raises(
        CheckpointError, match=r"matches: decoder\.layers\.0\.mlp\.linear_fc1\.bias"
    ):
        dict(to_hugging_face(ARCH, made))
