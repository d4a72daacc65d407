"""Slicing: what was zero can go without changing the function, judged by plain transformers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.pruning.select import keep_everything, select
from nemo_bielik.pruning.slice import apply_plan, planned_bytes
from nemo_bielik.tensors import axis_sizes, tensor_rows

HEAD_DIM = 6  # of conftest's tiny model
LAYERS = range(4)


def sliced(source_directory, plan, tmp_path, **settings):
    """Apply `plan` below `tmp_path` and return the new checkpoint."""
    directory = tmp_path / "sliced"
    directory.mkdir()
    return apply_plan(Checkpoint.open(source_directory), plan, directory, **settings)


def plan_for(directory, random_scores, scores=None, rescale_norms=True, **sizes):
    """Select by random scores, or by `scores`: attribute → function that edits the array."""
    arch = Checkpoint.open(directory).arch
    table = random_scores(arch)
    for name, edit in (scores or {}).items():
        edit(getattr(table, name))
    return select(table, arch.replace(**sizes), rescale_norms=rescale_norms)


def close(left, right, tolerance=1e-5):
    return bool(torch.allclose(left, right, rtol=tolerance, atol=tolerance))


def zero_columns(columns):
    def edit(array):
        array[:, columns] = 0.0

    return edit


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_keeping_everything_gives_equal_bytes(make_model, tmp_path, family, tied):
    directory = make_model(family, tie_word_embeddings=tied)
    source = Checkpoint.open(directory)
    result = sliced(directory, keep_everything(source.arch, source.fingerprint()), tmp_path)
    assert result.tensors.keys() == source.tensors.keys()
    for name in source.tensors:
        assert result.read(name).numpy().tobytes() == source.read(name).numpy().tobytes()
    assert result.arch.replace(name="") == source.arch.replace(name="")
    assert planned_bytes(source, keep_everything(source.arch)) == source.num_bytes


def test_cutting_zero_ffn_channels_keeps_the_logits(
    make_model, edit_weights, random_scores, logits, tmp_path
):
    directory, dead = make_model(), [1, 4, 9, 19]
    with edit_weights(directory) as weights:
        for layer in LAYERS:
            weights[f"model.layers.{layer}.mlp.down_proj.weight"][:, dead] = 0
    plan = plan_for(directory, random_scores, {"ffn": zero_columns(dead)}, ffn_hidden_size=16)
    result = sliced(directory, plan, tmp_path)
    assert result.arch.ffn_hidden_size == 16
    assert close(logits(result.directory), logits(directory))


@pytest.mark.parametrize(
    ("dead", "sizes"),
    [
        ([1, 2, 4], {"num_attention_heads": 3}),  # one head of each group
        ([2, 3], {"num_attention_heads": 4, "num_query_groups": 2}),  # a whole group
        ([0, 1, 2, 4], {"num_attention_heads": 2, "num_query_groups": 2}),  # both
    ],
)
def test_cutting_zero_heads_and_groups_keeps_the_logits(
    make_model, edit_weights, random_scores, logits, tmp_path, dead, sizes
):
    directory = make_model("llama")
    with edit_weights(directory) as weights:
        for layer in LAYERS:
            output = weights[f"model.layers.{layer}.self_attn.o_proj.weight"]
            output.view(output.shape[0], -1, HEAD_DIM)[:, dead] = 0
    plan = plan_for(directory, random_scores, {"heads": zero_columns(dead)}, **sizes)
    result = sliced(directory, plan, tmp_path)
    assert close(logits(result.directory), logits(directory))


def test_removing_a_layer_that_adds_nothing_gives_exactly_equal_logits(
    make_model, edit_weights, random_scores, logits, tmp_path
):
    directory = make_model()
    with edit_weights(directory) as weights:
        weights["model.layers.1.self_attn.o_proj.weight"].zero_()
        weights["model.layers.1.mlp.down_proj.weight"].zero_()

    def identity(cosine):
        cosine[1] = 64.0  # every token leaves the layer as it came: Block Influence 0

    plan = plan_for(directory, random_scores, {"cosine": identity}, num_layers=3)
    result = sliced(directory, plan, tmp_path)
    assert plan.layers == [0, 2, 3]
    assert torch.equal(logits(result.directory), logits(directory))


@pytest.mark.parametrize("tied", [False, True])
def test_cutting_zero_hidden_channels_needs_the_norm_rescale(
    make_model, edit_weights, random_scores, logits, tmp_path, tied
):
    directory, dead = make_model(tie_word_embeddings=tied), [0, 3, 7, 8, 15, 23]
    with edit_weights(directory) as weights:
        weights["model.embed_tokens.weight"][:, dead] = 0
        for layer in LAYERS:
            weights[f"model.layers.{layer}.self_attn.o_proj.weight"][dead] = 0
            weights[f"model.layers.{layer}.mlp.down_proj.weight"][dead] = 0
    wanted = logits(directory)
    for rescale in (True, False):
        place = tmp_path / str(rescale)
        place.mkdir()
        scores = {"hidden": zero_columns(dead)}
        plan = plan_for(directory, random_scores, scores, rescale, hidden_size=18)
        result = sliced(directory, plan, place)
        assert close(logits(result.directory), wanted) is rescale
        assert close(logits(result.directory), wanted, 1e-2) is rescale


def test_a_slice_along_every_axis_loads_and_generates(make_model, random_scores, tmp_path):
    from transformers import AutoModelForCausalLM

    sizes = {
        "num_layers": 2,
        "hidden_size": 16,
        "ffn_hidden_size": 12,
        "num_attention_heads": 2,
        "num_query_groups": 2,
    }
    directory = make_model("llama")
    result = sliced(directory, plan_for(directory, random_scores, **sizes), tmp_path)
    model, report = AutoModelForCausalLM.from_pretrained(result.directory, output_loading_info=True)
    assert not any(report.values())
    assert model.config.head_dim == HEAD_DIM
    generated = model.generate(torch.tensor([[1, 2]]), max_new_tokens=4, min_new_tokens=4)
    assert generated.shape == (1, 6)


def test_shards_do_not_matter(make_model, random_scores, tmp_path):
    one, many = make_model(), make_model(shard="4KB")
    assert (many / "model.safetensors.index.json").is_file()
    plan = plan_for(one, random_scores, hidden_size=20, num_layers=3)
    (tmp_path / "many").mkdir()
    single = sliced(one, plan, tmp_path)
    sharded = sliced(many, plan, tmp_path / "many", shard_bytes=3000)
    assert len(list(sharded.directory.glob("*.safetensors"))) > 3
    assert single.tensors.keys() == sharded.tensors.keys()
    for name in single.tensors:
        assert torch.equal(single.read(name), sharded.read(name))


def test_two_cuts_equal_one(make_model, random_scores, tmp_path):
    """Cutting 24 → 20 → 16 hidden channels is cutting the union at once, norms and eps too."""
    directory = make_model()
    first = plan_for(directory, random_scores, hidden_size=20, num_layers=3)
    (tmp_path / "first").mkdir()
    middle = sliced(directory, first, tmp_path / "first")
    second = plan_for(middle.directory, random_scores, hidden_size=16, ffn_hidden_size=9)
    twice = sliced(middle.directory, second, tmp_path)
    joined = replace(
        first,
        target=second.target,
        hidden=[first.hidden[index] for index in second.hidden],
        ffn=second.ffn,
    )
    (tmp_path / "joined").mkdir()
    once = sliced(directory, joined, tmp_path / "joined")
    assert once.config["rms_norm_eps"] == pytest.approx(1e-3 * 24 / 16)
    for name in once.tensors:
        assert close(once.read(name), twice.read(name), 1e-6)


def test_bfloat16_stays_bfloat16(make_model, random_scores, tmp_path):
    from transformers import AutoModelForCausalLM

    directory = tmp_path / "bf16"
    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.bfloat16)
    model.save_pretrained(directory)
    plan = plan_for(directory, random_scores, hidden_size=16)
    result = sliced(directory, plan, tmp_path)
    assert {tensor.dtype for tensor in result.tensors.values()} == {"BF16"}
    assert planned_bytes(Checkpoint.open(directory), plan) == result.num_bytes
    assert AutoModelForCausalLM.from_pretrained(result.directory, dtype="auto").dtype == (
        torch.bfloat16
    )


@st.composite
def arches(draw):
    """Draw a random small architecture; weights follow from a seed, so only shapes are drawn."""
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return ModelArch(
        name="drawn",
        model_type=draw(st.sampled_from(["llama", "mistral"])),
        vocab_size=draw(st.integers(1, 6)),
        hidden_size=draw(st.integers(1, 7)),
        ffn_hidden_size=draw(st.integers(1, 7)),
        num_layers=draw(st.integers(1, 3)),
        num_attention_heads=groups * per_group,
        num_query_groups=groups,
        head_dim=2 * draw(st.integers(1, 2)),
        tie_word_embeddings=draw(st.booleans()),
    )


@st.composite
def cuts(draw):
    """Draw an architecture and a reachable target."""
    arch = draw(arches())
    groups = draw(st.integers(1, arch.num_query_groups))
    target = arch.replace(
        num_layers=draw(st.integers(1, arch.num_layers)),
        hidden_size=draw(st.integers(1, arch.hidden_size)),
        ffn_hidden_size=draw(st.integers(1, arch.ffn_hidden_size)),
        num_query_groups=groups,
        num_attention_heads=groups * draw(st.integers(1, arch.heads_per_group)),
    )
    return arch, target


def numbered_checkpoint(arch, directory):
    """Write a checkpoint whose every element is a different whole number."""
    writer, start = CheckpointWriter(directory, arch.to_hf_config()), 1
    for row in tensor_rows(arch):
        values = torch.arange(start, start + row.numel, dtype=torch.float64)
        writer.add(row.name, values.reshape(row.shape))
        start += row.numel
    writer.finish()
    return Checkpoint.open(directory)


def reference(source, plan, name, target_layer):
    """Cut one tensor with numpy: one boolean mask per dimension, built head by head."""
    arch, sizes = plan.source, axis_sizes(plan.source)
    row = next(row for row in tensor_rows(arch) if row.name == name)

    def mask(axis):
        units = {"hidden": plan.hidden}
        if target_layer is not None:
            units["ffn"] = plan.ffn[target_layer]
            units["heads"] = plan.heads[target_layer]
            units["groups"] = plan.groups[target_layer]
        width = arch.head_dim if axis in ("heads", "groups") else 1
        return [axis not in units or place // width in units[axis] for place in range(sizes[axis])]

    return source.read(name).numpy()[np.ix_(*(mask(axis) for axis in row.axes))]


@settings(max_examples=25, deadline=None)
@given(cut=cuts(), seed=st.integers(0, 99))
def test_every_tensor_equals_an_independent_cut(random_scores, tmp_path_factory, cut, seed):
    arch, target = cut
    place = tmp_path_factory.mktemp("drawn")
    (place / "source").mkdir()
    source = numbered_checkpoint(arch, place / "source")
    plan = select(random_scores(arch, source.fingerprint(), seed), target, rescale_norms=False)
    result = sliced(place / "source", plan, place)
    assert result.num_bytes == planned_bytes(source, plan)
    for row in tensor_rows(plan.target):
        name = row.name
        if row.layer is not None:
            name = name.replace(f".{row.layer}.", f".{plan.layers[row.layer]}.", 1)
        np.testing.assert_array_equal(
            result.read(row.name).numpy(), reference(source, plan, name, row.layer)
        )


@settings(max_examples=25, deadline=None)
@given(cut=cuts(), seed=st.integers(0, 99))
def test_plans_are_ascending_and_survive_a_round_trip(random_scores, tmp_path_factory, cut, seed):
    arch, target = cut
    plan = select(random_scores(arch, "", seed), target)
    for kept in (plan.layers, plan.hidden, *plan.ffn, *plan.heads, *plan.groups):
        assert list(kept) == sorted(set(kept))
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    assert PruningPlan.load(path) == plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_model": "of another model"}, "other weights"),
        ({"layers": [0, 1, 2]}, "layers keeps 3, but the target calls for 4"),
        ({"layers": [0, 1, 3, 2]}, "layers must be ascending indices between 0 and 3"),
        ({"hidden": list(range(1, 25))}, "hidden must be ascending indices between 0 and 23"),
        ({"ffn": [list(range(20))] * 3}, "ffn covers 3 layers, not 4"),
        ({"groups": [[0, 1]] * 4}, "groups of layer 0 keeps 2"),
    ],
)
def test_an_inconsistent_plan_is_refused_before_anything_is_written(
    make_model, tmp_path, changes, words
):
    directory = make_model()
    plan = replace(keep_everything(Checkpoint.open(directory).arch), **changes)
    with pytest.raises(DataError, match=words) as caught:
        sliced(directory, plan, tmp_path)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "sliced").iterdir()) == []


def test_heads_outside_their_groups_are_refused(make_model, random_scores, tmp_path):
    directory = make_model()
    plan = plan_for(directory, random_scores, num_attention_heads=3)
    plan = replace(plan, heads=[[0, 1, 2]] * 4)  # two heads of group 0, none of group 2
    with pytest.raises(DataError, match="must lie in its kept query groups, 1 in each"):
        sliced(directory, plan, tmp_path)


def test_a_plan_for_another_architecture_is_refused(make_model, tmp_path):
    directory = make_model()
    arch = Checkpoint.open(directory).arch
    with pytest.raises(DataError, match="another architecture"):
        sliced(directory, keep_everything(arch.replace(rope_theta=5.0)), tmp_path)
    with pytest.raises(ConfigError, match="vocab_size"):
        plan = replace(keep_everything(arch), target=arch.replace(vocab_size=4))
        planned_bytes(Checkpoint.open(directory), plan)


def test_not_a_number_is_refused(make_model, edit_weights, tmp_path):
    directory = make_model()
    with edit_weights(directory) as weights:
        weights["model.layers.2.mlp.up_proj.weight"][3, 3] = float("nan")
    plan = keep_everything(Checkpoint.open(directory).arch)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj\.weight holds NaN"):
        sliced(directory, plan, tmp_path)


def test_fields_per_layer_follow_the_kept_layers(make_model, random_scores, tmp_path):
    directory = make_model()
    config = json.loads((directory / "config.json").read_text())
    config["layer_types"] = ["a", "b", "c", "d"]
    (directory / "config.json").write_text(json.dumps(config))
    plan = plan_for(directory, random_scores, num_layers=2)
    result = sliced(directory, plan, tmp_path)
    assert result.config["layer_types"] == [config["layer_types"][layer] for layer in plan.layers]
