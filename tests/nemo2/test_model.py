"""Hugging Face → NeMo 2 → Hugging Face, by NeMo's own commands, on a CPU.

Transformer Engine itself runs on GPUs only: `nemo2_cases.NormThenLinear` has its layers' names.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.manifest import Manifest

TOKENS = np.array([[5, 1, 40, 7, 7, 23, 11, 2], [3, 9, 44, 0, 17, 30, 8, 6]])


@pytest.fixture(scope="module")
def trips(make_model, tokenizer_directory, nemo2, tmp_path_factory):
    """Source, NeMo checkpoint, exported directory and what was seen, of both families."""
    made = {}
    for family, changes in {"mistral": {}, "llama": {"tie_word_embeddings": True}}.items():
        source, folder = make_model(family, seed=3, **changes), tmp_path_factory.mktemp(family)
        if family == "mistral":
            copy_tokenizer(tokenizer_directory, source)
        nemo, back = folder / "nemo", folder / "back"
        seen = nemo2("there_and_back", source, nemo, back, TOKENS)
        made[family] = (source, nemo, back, seen)
    return made


@pytest.fixture(scope="module")
def fused(trips, nemo2, tmp_path_factory):
    source, plain, *_ = trips["mistral"]
    nemo, back = (tmp_path_factory.mktemp("fused") / name for name in ("nemo", "back"))
    return source, back, nemo2("fused_there_and_back", source, nemo, back, plain, TOKENS)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def assert_same_weights(first: Path, second: Path) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_there_and_back_changes_no_tensor(family, trips):
    source, _, back, _ = trips[family]
    assert_same_weights(source, back)


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_there_and_back_changes_no_setting(family, trips):
    source, _, back, seen = trips[family]
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (source, back))
    differing = {key for key in before | after if before.get(key) != after.get(key)}
    # `ModelArch.to_hf_config` says that there is no bias, for Mistral too
    assert differing <= {"_name_or_path", "attention_bias"}
    assert not after.get("attention_bias")
    assert seen["arch"].replace(name="") == Checkpoint.open(source).arch.replace(name="")


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_the_imported_model_gives_the_logits_of_transformers(family, trips, logits):
    source, *_, seen = trips[family]
    expected = logits(source).numpy()
    assert seen["logits"].shape == expected.shape  # 48 rows: the vocabulary is not padded
    np.testing.assert_allclose(seen["logits"], expected, atol=2e-5)


def test_plain_layers_have_norms_of_their_own(trips):
    names = trips["mistral"][-1]["names"]
    assert "decoder.layers.3.input_layernorm.weight" in names
    assert "decoder.layers.3.pre_mlp_layernorm.weight" in names
    assert not any("layer_norm_weight" in name for name in names)


def test_fused_norms_arrive_and_return(fused, logits):
    source, back, seen = fused
    assert "decoder.layers.3.self_attention.linear_qkv.layer_norm_weight" in seen["names"]
    assert "decoder.layers.3.mlp.linear_fc1.layer_norm_weight" in seen["names"]
    assert not any("input_layernorm" in name for name in seen["names"])
    np.testing.assert_allclose(seen["logits"], logits(source).numpy(), atol=2e-5)
    assert_same_weights(source, back)


def test_a_checkpoint_of_plain_layers_loads_into_fused_ones(fused, logits):
    """As one imported on a CPU does where there is Transformer Engine."""
    source, _, seen = fused
    np.testing.assert_allclose(seen["of plain checkpoint"], logits(source).numpy(), atol=2e-5)


def test_the_tokenizer_comes_along_unchanged(trips, tokenizer_directory):
    _, nemo, back, seen = trips["mistral"]
    for path in tokenizer_directory.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()
    tokenizer = json.loads((tokenizer_directory / "tokenizer.json").read_text())
    assert seen["vocabulary"] == tokenizer["model"]["vocab"]
    assert not list(nemo.rglob("*.safetensors"))  # NeMo copies the folder a tokenizer came from


def test_a_model_without_tokenizer_has_none(trips):
    assert trips["llama"][-1]["vocabulary"] is None


def test_outputs_say_what_they_are_made_from(trips):
    source, nemo, back, _ = trips["mistral"]
    imported, exported = Manifest.load(nemo), Manifest.load(back)
    assert imported.stage == "nemo2-import"
    assert imported.inputs == {"model": Checkpoint.open(source).fingerprint()}
    assert (exported.stage, exported.config) == ("nemo2-export", {"checkpoint": str(nemo)})


def test_a_parameter_without_a_row_is_refused_by_name(make_model, nemo2, tmp_path):
    line = nemo2("refusal", make_model(), tmp_path / "nemo", "QueryKeyNormImporter")
    assert line.startswith("CheckpointError: ")
    assert "parameters that no row of the conversion matches: decoder.layers.0.self_att" in line
    assert "decoder.layers.3.self_attention.q_layernorm.weight" in line
    assert "\n" not in line
    assert not (tmp_path / "nemo").exists()


def test_a_tensor_without_a_row_is_refused_by_name(make_model, edit_weights, nemo2, tmp_path):
    source = make_model()
    with edit_weights(source) as tensors:
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(6)
    line = nemo2("refusal", source, tmp_path / "nemo", "HFBielikImporter")
    assert line.startswith("CheckpointError: ")
    assert "model.layers.0.self_attn.q_norm.weight" in line
    assert "\n" not in line
    assert not (tmp_path / "nemo").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"sliding_window": 16}, "sliding_window"),
    ],
)
def test_what_nemo_cannot_say_is_refused(change, named, make_model, nemo2, tmp_path):
    line = nemo2("refusal", make_model(**change), tmp_path / "nemo", "HFBielikImporter")
    assert line.startswith("CheckpointError: ")
    assert f"config.json sets {named}" in line
    assert "\n" not in line


def test_only_a_local_directory_is_read(nemo2, tmp_path):
    line = nemo2("refusal", "speakleash/Bielik", tmp_path / "nemo", "HFBielikImporter")
    assert line == "CheckpointError: speakleash/Bielik: no such model directory"
