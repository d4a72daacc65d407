"""Slicing: what was zero can go without changing the function, judged by plain transformers."""

import json
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from nemo_bielik import tensor_files
from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PruningPlan, WeightEdit
from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter
from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.select import keep_everything, select
from nemo_bielik.pruning.slice import (
    apply_edit,
    apply_plan,
    edited_hashes,
    planned_bytes,
    planned_hashes,
)
from nemo_bielik.tensors import tensor_rows

HEAD_DIM = 6  # of conftest's tiny model
LAYERS = range(4)


def sliced(source_directory, plan, tmp_path, **settings):
    """Apply `plan` below `tmp_path` and return the new checkpoint."""
    directory = tmp_path / "sliced"
    directory.mkdir()
    return apply_plan(Checkpoint.open(source_directory), plan, directory, **settings).checkpoint


def bytes_in(directory):
    return sum(path.stat().st_size for path in directory.iterdir())


def plan_for(directory, random_scores, scores=None, rescale_norms=True, **sizes):
    """Select by random scores, or by `scores`: attribute → function that edits the array."""
    arch = Checkpoint.open(directory).arch
    table = random_scores(arch)
    for name, edit in (scores or {}).items():
        edit(getattr(table, name))
    return select(from_table(table), arch.replace(**sizes), rescale_norms=rescale_norms)


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
    assert planned_bytes(source, keep_everything(source.arch)) == bytes_in(result.directory)


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


def random_checkpoint(arch, directory, dtype, seed, shard_bytes):
    """Write a checkpoint of random weights, a shard at most `shard_bytes` long."""
    writer = CheckpointWriter(directory, arch.to_hf_config(), shard_bytes)
    generator = torch.Generator().manual_seed(seed)
    for row in tensor_rows(arch):
        writer.add(row.name, torch.randn(row.shape, generator=generator).to(dtype))
    writer.finish()
    return Checkpoint.open(directory)


def loaded(directory):
    """Read all weights by the safetensors library."""
    return {
        name: tensor
        for path in directory.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def reference(weights, plan, row):
    """Cut one tensor with torch, one dimension after the other; indices built head by head."""
    name, layer = row.name, row.layer
    if layer is not None:
        name = name.replace(f".{layer}.", f".{plan.layers[layer]}.", 1)
    tensor = weights[name]
    for dim, axis in enumerate(row.axes):
        if axis == "vocab":
            continue
        kept = plan.hidden if axis == "hidden" else getattr(plan, axis)[layer]
        if axis in ("heads", "groups"):
            size = plan.source.head_dim
            kept = [head * size + place for head in kept for place in range(size)]
        tensor = tensor.index_select(dim, torch.tensor(kept))
    hidden, kept_hidden = plan.source.hidden_size, plan.target.hidden_size
    if "norm" in name and plan.rescale_norms and kept_hidden < hidden:
        tensor = (tensor.double() * (hidden / kept_hidden) ** 0.5).to(tensor.dtype)
    return tensor


@settings(max_examples=15, deadline=None)
@given(
    cut=cuts(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    rescale=st.booleans(),
    shards=st.tuples(st.sampled_from([300, 10**9]), st.sampled_from([300, 10**9])),
    block_bytes=st.sampled_from([1, 30, 10**6]),
)
def test_every_tensor_equals_an_independent_cut(
    random_scores, tmp_path_factory, cut, seed, dtype, rescale, shards, block_bytes
):
    arch, target = cut
    place = tmp_path_factory.mktemp("drawn")
    (place / "source").mkdir()
    source = random_checkpoint(arch, place / "source", dtype, seed, shards[0])
    importance = from_table(random_scores(arch, source.fingerprint(), seed))
    plan = select(importance, target, rescale_norms=rescale)
    with mock.patch.object(tensor_files, "BLOCK_BYTES", block_bytes):
        result = sliced(source.directory, plan, place, shard_bytes=shards[1])
    weights, made = loaded(source.directory), loaded(result.directory)
    assert made.keys() == {row.name for row in tensor_rows(plan.target)}
    for row in tensor_rows(plan.target):
        wanted = reference(weights, plan, row)
        assert made[row.name].dtype == dtype
        assert torch.equal(made[row.name], wanted)


@settings(max_examples=10, deadline=None)
@given(cut=cuts(), seed=st.integers(0, 99), shard_bytes=st.sampled_from([100, 10**9]))
def test_bytes_and_hashes_are_known_without_writing(
    random_scores, tmp_path_factory, cut, seed, shard_bytes
):
    arch, target = cut
    place = tmp_path_factory.mktemp("drawn")
    (place / "source").mkdir()
    source = random_checkpoint(arch, place / "source", torch.bfloat16, seed, shard_bytes)
    plan = select(from_table(random_scores(arch, source.fingerprint(), seed)), target)
    planned, hashes = planned_bytes(source, plan), planned_hashes(source, plan)
    assert sorted(place.iterdir()) == [source.directory]
    (place / "sliced").mkdir()
    written = apply_plan(source, plan, place / "sliced")
    assert bytes_in(place / "sliced") == planned
    files = {path.name: file_sha256(path) for path in (place / "sliced").iterdir()}
    assert written.sha256 == hashes == files


@settings(max_examples=25, deadline=None)
@given(cut=cuts(), seed=st.integers(0, 99))
def test_plans_are_ascending_and_survive_a_round_trip(random_scores, tmp_path_factory, cut, seed):
    arch, target = cut
    plan = select(from_table(random_scores(arch, "", seed)), target)
    for kept in (plan.layers, plan.hidden, *plan.ffn, *plan.heads, *plan.groups):
        assert list(kept) == sorted(set(kept))
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    assert PruningPlan.load(path) == plan


def test_not_a_number_is_refused(make_model, edit_weights, tmp_path):
    directory = make_model()
    with edit_weights(directory) as weights:
        weights["model.layers.2.mlp.up_proj.weight"][3, 3] = float("nan")
    plan = keep_everything(Checkpoint.open(directory).arch)
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.up_proj\.weight holds NaN"):
        sliced(directory, plan, tmp_path)


def test_a_norm_that_outgrows_its_type_is_refused(make_model, random_scores, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.float16)
    model.model.norm.weight.data.fill_(60_000.0)
    model.save_pretrained(tmp_path / "source")
    plan = plan_for(tmp_path / "source", random_scores, hidden_size=12)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight times 1\.414 exceeds F16"):
        sliced(tmp_path / "source", plan, tmp_path)


def test_fields_per_layer_follow_the_kept_layers(make_model, random_scores, tmp_path):
    directory = make_model()
    config = json.loads((directory / "config.json").read_text())
    config["layer_types"] = ["a", "b", "c", "d"]
    (directory / "config.json").write_text(json.dumps(config))
    plan = plan_for(directory, random_scores, num_layers=2)
    result = sliced(directory, plan, tmp_path)
    assert result.config["layer_types"] == [config["layer_types"][layer] for layer in plan.layers]


def edit_of(source, **changes):
    values = {"arch": source.arch, "method": "magnitude", "sparsity": 0.5} | changes
    return WeightEdit(source_model=source.fingerprint(), **values)


def edited(source, editor, directory, **settings):
    directory.mkdir()
    return apply_edit(source, edit_of(source), editor, directory, **settings)


@pytest.mark.parametrize("shard", ["5GB", "4KB"])
def test_an_edit_that_changes_nothing_gives_the_same_weights(make_model, tmp_path, shard):
    source = Checkpoint.open(make_model(shard=shard))
    seen = []

    def unchanged(row, weight):
        seen.append(row.name)
        return weight

    written = edited(source, unchanged, tmp_path / "edited", shard_bytes=3000)
    assert written.checkpoint.fingerprint() != ""
    weights = loaded(source.directory)
    made = loaded(tmp_path / "edited")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[name], weights[name]) for name in weights)
    suffixes = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [(name.split(".")[2], name.split(".")[4]) for name in seen] == [
        (str(layer), suffix) for layer in LAYERS for suffix in suffixes
    ]
    assert set(written.zeros.values()) == {0}
    assert written.checkpoint.config == source.config


def test_an_edit_changes_the_projections_and_counts_their_zeros(make_model, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "source")
    source = Checkpoint.open(tmp_path / "source")

    def first_row(row, weight):
        changed = weight.clone()
        changed[0] = -0.0 if row.layer == 1 else 0.0
        return changed

    written = edited(source, first_row, tmp_path / "edited")
    weights, made = loaded(source.directory), loaded(tmp_path / "edited")
    for name, weight in weights.items():
        projection = name.endswith("_proj.weight")
        assert (name in written.zeros) is projection
        assert torch.equal(made[name][1:], weight[1:])
        if projection:
            assert not made[name][0].any()
            assert written.zeros[name] == int((made[name] == 0).sum()) >= weight.shape[1]
    sizes = planned_bytes(source, edit_of(source))
    assert sizes == bytes_in(tmp_path / "edited")
    files = {path.name: file_sha256(path) for path in (tmp_path / "edited").iterdir()}
    assert written.sha256 == files
    assert edited_hashes(source, edit_of(source), first_row) == files


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_edit_that_gives_no_numbers_is_refused(make_model, tmp_path, value):
    source = Checkpoint.open(make_model())

    def damage(row, weight):
        return weight.index_fill(1, torch.tensor([2]), value) if row.layer == 2 else weight

    with pytest.raises(CheckpointError, match=r"magnitude made NaN .*layers\.2\.self_attn\.q_proj"):
        edited(source, damage, tmp_path / "edited")


def test_an_edit_of_another_model_is_refused(make_model, tmp_path):
    source, other = (Checkpoint.open(make_model(seed=seed)) for seed in (0, 1))
    with pytest.raises(DataError, match="other weights"):
        apply_edit(source, edit_of(other), lambda row, weight: weight, tmp_path)
    edit = edit_of(source, arch=source.arch.replace(rope_theta=5.0))
    with pytest.raises(DataError, match="another architecture"):
        apply_edit(source, edit, lambda row, weight: weight, tmp_path)
    assert list(tmp_path.iterdir()) == []
