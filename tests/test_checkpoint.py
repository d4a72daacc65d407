"""Model directories: what is accepted, what is refused and in which words."""

import hashlib
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter, copy_tokenizer
from nemo_bielik.errors import CheckpointError, StorageError
from nemo_bielik.files import atomic_directory


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(directory, words):
    """Expect `Checkpoint.open` to refuse `directory` in one line that holds `words`."""
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(directory)
    message = str(caught.value)
    assert "\n" not in message
    assert str(directory) in message
    for word in [words] if isinstance(words, str) else words:
        assert word in message


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("tied", [False, True])
def test_opens_what_transformers_writes(make_model, family, tied):
    directory = make_model(family, tie_word_embeddings=tied)
    checkpoint = Checkpoint.open(directory)
    weights = load_file(directory / "model.safetensors")
    assert checkpoint.tensors.keys() == weights.keys()
    assert ("lm_head.weight" in weights) is not tied
    for name, weight in weights.items():
        assert torch.equal(checkpoint.read(name), weight)
    assert checkpoint.num_bytes == sum(weight.nbytes for weight in weights.values())
    assert (checkpoint.arch.model_type, checkpoint.arch.head_dim) == (family, 6)


def test_a_tied_head_stored_twice_is_accepted(make_model, edit_weights):
    directory = make_model(tie_word_embeddings=True)
    with edit_weights(directory) as weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    assert Checkpoint.open(directory).arch.tie_word_embeddings


def test_written_shards_read_back_and_load_in_transformers(make_model, tmp_path, logits):
    source = Checkpoint.open(make_model())
    writer = CheckpointWriter(tmp_path, source.config, shard_bytes=4000)
    for name in source.tensors:
        writer.add(name, source.read(name))
    writer.finish()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == source.num_bytes
    assert len(set(index["weight_map"].values())) > 2
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # all equally readable
    assert torch.equal(logits(tmp_path), logits(source.directory))


def test_the_fingerprint_is_of_the_content(make_model, edit_weights, tmp_path):
    directory = make_model()
    first = Checkpoint.open(directory).fingerprint()
    shutil.copytree(directory, tmp_path / "copy")
    edit_config(tmp_path / "copy", _name_or_path="elsewhere")
    assert Checkpoint.open(tmp_path / "copy").fingerprint() == first
    edit_config(tmp_path / "copy", rope_theta=1.0)
    assert Checkpoint.open(tmp_path / "copy").fingerprint() != first
    with edit_weights(directory) as weights:
        weights["lm_head.weight"][0, 0] += 1
    assert Checkpoint.open(directory).fingerprint() != first


def test_the_fingerprint_is_what_artifacts_of_earlier_releases_refer_to(make_model):
    directory = make_model(shard="4KB")
    config = json.loads((directory / "config.json").read_text())
    shards = sorted(directory.glob("*.safetensors"))
    hashes = [hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards]
    text = json.dumps([config, hashes], sort_keys=True, separators=(",", ":"))
    assert Checkpoint.open(directory).fingerprint() == hashlib.sha256(text.encode()).hexdigest()


def test_missing_and_empty_directories_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "no such model directory")
    refused(tmp_path, "holds no config.json")


@pytest.mark.parametrize(("text", "words"), [("{", "not valid JSON"), ("[]", "one JSON object")])
def test_a_damaged_config_is_refused(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    refused(tmp_path, words)


def test_a_directory_without_weights_is_refused(make_model):
    directory = make_model()
    (directory / "model.safetensors").unlink()
    refused(directory, "holds no *.safetensors")


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral"])
def test_other_families_are_named_with_what_is_supported(make_model, model_type):
    directory = make_model()
    edit_config(directory, model_type=model_type)
    refused(directory, [repr(model_type), "not supported", "llama", "mistral"])


def test_a_missing_field_is_named(make_model):
    directory = make_model()
    config = json.loads((directory / "config.json").read_text())
    del config["intermediate_size"]
    (directory / "config.json").write_text(json.dumps(config))
    refused(directory, ["lacks", "intermediate_size"])


@pytest.mark.parametrize("keep_bytes", [0, 5, 100, -1])
def test_a_truncated_shard_is_refused(make_model, keep_bytes):
    directory = make_model()
    shard = directory / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:keep_bytes])
    refused(directory, ["truncated", "copy it again"])


@pytest.mark.parametrize("header", [b"not json", b"[1, 2, 3]", b'{"a": {"dtype": "F32"}}'])
def test_a_damaged_header_is_refused(make_model, header):
    directory = make_model()
    size = len(header).to_bytes(8, "little")
    (directory / "model.safetensors").write_bytes(size + header)
    refused(directory, "damaged safetensors header")


def test_a_missing_shard_is_named(make_model):
    directory = make_model(shard="4KB")
    shard = sorted(directory.glob("*.safetensors"))[1]
    shard.unlink()
    refused(directory, [shard.name, "is missing"])


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_refused(make_model, text):
    directory = make_model(shard="4KB")
    (directory / "model.safetensors.index.json").write_text(text)
    refused(directory, "is not a safetensors index")


def test_a_second_copy_of_the_weights_does_not_disturb(make_model):
    directory = make_model()  # Mistral's own releases lay their format beside
    save_file({"tok_embeddings.weight": torch.ones(1)}, directory / "consolidated.safetensors")
    assert "tok_embeddings.weight" not in Checkpoint.open(directory).tensors


def test_unknown_missing_and_misshapen_tensors_are_named(make_model, edit_weights):
    directory = make_model()
    with edit_weights(directory) as weights:
        weights["model.layers.0.mlp.extra.weight"] = torch.ones(1)
    refused(directory, ["model.layers.0.mlp.extra.weight", "no row of the mistral table"])
    with edit_weights(directory) as weights:
        del weights["model.layers.0.mlp.extra.weight"], weights["model.norm.weight"]
    refused(directory, ["1 tensor(s) missing", "model.norm.weight"])
    with edit_weights(directory) as weights:
        weights["model.norm.weight"] = torch.ones(5)
    refused(directory, ["model.norm.weight has shape [5]", "[24]"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_refused_on_reading(make_model, edit_weights, value):
    directory = make_model()
    with edit_weights(directory) as weights:
        weights["model.norm.weight"][3] = value
    checkpoint = Checkpoint.open(directory)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight holds NaN or infinite"):
        checkpoint.read("model.norm.weight")


def test_a_disk_that_fills_while_writing_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with (
        pytest.raises(StorageError, match="no space left") as caught,
        atomic_directory(tmp_path / "output") as scratch,
    ):
        writer = CheckpointWriter(scratch, {})
        writer.add("a", torch.ones(3))
        writer.finish()
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_copies_only_the_tokenizer(tokenizer_directory, tmp_path):
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    shutil.copytree(tokenizer_directory, tmp_path / "from", dirs_exist_ok=True)
    (tmp_path / "from" / "notes.txt").write_text("not a tokenizer")
    copy_tokenizer(tmp_path / "from", tmp_path / "to")
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
    }
