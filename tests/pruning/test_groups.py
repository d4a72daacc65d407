"""Coupled groups: a group whose members are zero is a unit that is not there."""

from dataclasses import replace

import pytest
import torch

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.pruning.groups import coupled_groups
from nemo_bielik.pruning.select import keep_everything
from nemo_bielik.pruning.slice import apply_plan
from nemo_bielik.tensors import layer_tensor_name

LAYER = 1
#: The units that are removed; of heads one in every query group, so that groups stay even.
CUTS = {
    "layers": ({"num_layers": 3}, [LAYER]),
    "hidden": ({"hidden_size": 22}, [3, 17]),
    "ffn": ({"ffn_hidden_size": 18}, [0, 11]),
    "heads": ({"num_attention_heads": 3}, [1, 2, 4]),
    "groups": ({"num_attention_heads": 4, "num_query_groups": 2}, [1]),
}


def zero_group(weights, arch, unit, index):
    """Zero every member of a unit's group: of a layer in `LAYER`, of the others in every layer."""
    layers = [LAYER] if unit == "layers" else range(arch.num_layers)
    for member in coupled_groups(arch)[unit]:
        in_layers = {layer_tensor_name(layer, member.tensor) for layer in layers}
        for name in in_layers & weights.keys() or {member.tensor}:
            if member.dim is None:
                weights[name].zero_()
                continue
            each = arch.head_dim if member.axis in ("heads", "groups") else 1
            if unit == "groups" and member.axis == "heads":
                each *= arch.heads_per_group
            places = torch.arange(index * each, (index + 1) * each)
            weights[name].index_fill_(member.dim, places, 0)


def plan_without(source, unit, sizes, indices):
    """Return the plan that cuts `indices` of `unit`, in every layer that has it."""
    plan = keep_everything(source.arch, source.fingerprint())
    plan = replace(plan, target=source.arch.replace(**sizes))
    kept = {name: getattr(plan, name) for name in ("layers", "hidden", "ffn", "groups", "heads")}

    def without(name, gone):
        values = kept[name]
        if isinstance(values[0], list):
            return [[n for n in row if n not in gone] for row in values]
        return [n for n in values if n not in gone]

    changes = {unit: without(unit, indices)}
    if unit == "layers":
        changes |= {name: kept[name][1:] for name in ("ffn", "groups", "heads")}
    if unit == "groups":
        size = source.arch.heads_per_group
        changes["heads"] = without("heads", [g * size + n for g in indices for n in range(size)])
    return replace(plan, **changes)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("unit", CUTS)
def test_a_group_of_zeros_is_a_unit_that_is_not_there(
    make_model, edit_weights, logits, tmp_path, unit, tied
):
    """The sliced model has another shape and, of a model with those groups zero, the function."""
    sizes, indices = CUTS[unit]
    model = make_model(seed=4, tie_word_embeddings=tied)
    arch, whole = Checkpoint.open(model).arch, logits(model)
    with edit_weights(model) as weights:
        for index in indices:
            zero_group(weights, arch, unit, index)
    source = Checkpoint.open(model)
    plan = plan_without(source, unit, sizes, indices)
    if unit == "hidden":
        eps = arch.rms_norm_eps * arch.hidden_size / plan.target.hidden_size
        plan = replace(plan, target=plan.target.replace(rms_norm_eps=eps))
    small = tmp_path / "small"
    small.mkdir()
    apply_plan(source, plan, small)
    found = logits(model)
    torch.testing.assert_close(logits(small), found, rtol=1e-5, atol=1e-5)
    assert (found - whole).abs().max() > 0.01  # the groups did something


def test_the_members_of_the_groups_within_a_layer(make_model):
    """As Ma et al. draw them; what runs last stands last."""
    groups = coupled_groups(Checkpoint.open(make_model()).arch)

    def members(unit):
        return [(member.tensor, member.dim) for member in groups[unit]]

    assert members("ffn") == [
        ("mlp.gate_proj.weight", 0),
        ("mlp.up_proj.weight", 0),
        ("mlp.down_proj.weight", 1),
    ]
    heads = [("self_attn.q_proj.weight", 0), ("self_attn.o_proj.weight", 1)]
    keys_and_values = [("self_attn.k_proj.weight", 0), ("self_attn.v_proj.weight", 0)]
    assert members("heads") == heads
    assert members("groups") == [*keys_and_values, *heads]
    assert len(members("layers")) == 9
    assert members("layers")[-1] == ("mlp.down_proj.weight", None)
    assert len(members("hidden")) == 9 + 3
    assert members("hidden")[-1] == ("lm_head.weight", 1)


def test_tied_embeddings_are_one_member_which_also_runs_last(make_model):
    groups = coupled_groups(Checkpoint.open(make_model(tie_word_embeddings=True)).arch)
    names = [member.tensor for member in groups["hidden"]]
    assert names[-1] == "model.embed_tokens.weight"
    assert len(names) == len(set(names)) == 9 + 2
