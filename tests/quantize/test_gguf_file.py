"""A GGUF file is the model: llama.cpp computes from it what transformers computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize.gguf_file import write_gguf
from nemo_bielik.quantize.gguf_tensors import gguf_tensors, native_type
from nemo_bielik.quantize.llama_cpp import LlamaModel

for package in ("gguf", "cyllama"):
    pytest.importorskip(package, reason="GGUF needs nemo-bielik[gguf]")

IDS = [1, 40, 300, 7, 7, 23, 411, 2, 99, 250, 17, 3, 128, 64, 32, 500]

#: As Llama 3.1 has it.
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def in_f16(directory: Path, edit_weights, scale: float = 0.1) -> None:
    """Round the weights to what F16 holds, so that the file says exactly the same."""
    with edit_weights(directory) as weights:
        for name, weight in weights.items():
            small = weight if "norm" in name else weight * scale
            weights[name] = small.half().float()


@pytest.mark.parametrize(
    ("family", "kind", "changes"),
    [
        ("llama", "byte-level", {}),
        ("llama", "sentencepiece", {"tie_word_embeddings": True}),
        ("mistral", "sentencepiece", {}),
        ("mistral", "byte-level", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
        ("llama", "byte-level", {"head_dim": 32, "rope_theta": 500.0}),
        ("llama", "byte-level", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        (
            "llama",
            "byte-level",
            {"rope_scaling": LLAMA3},
        ),
    ],
    ids=["llama", "tied", "mistral", "no groups", "head dim", "linear", "llama3"],
)
def test_llama_cpp_computes_what_transformers_computes(
    make_quantizable, edit_weights, logits, tmp_path, family, kind, changes
):
    model = make_quantizable(kind, family, **changes)
    in_f16(model, edit_weights)
    write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")
    found = LlamaModel(tmp_path / "m.gguf", 64, 1).logits(IDS)
    expected = logits(model, torch.tensor([IDS]))[0].numpy()
    assert np.abs(expected).max() > 1  # a model that says something
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_without_the_permutation_the_logits_would_differ(
    make_quantizable, edit_weights, logits, tmp_path
):
    model = make_quantizable()
    in_f16(model, edit_weights)
    expected = logits(model, torch.tensor([IDS]))[0].numpy()
    with edit_weights(model) as weights:  # undo it beforehand
        for name, weight in weights.items():
            if "q_proj" in name:
                heads = weight.unflatten(0, (4, 32, 2)).transpose(1, 2)
                weights[name] = heads.reshape(weight.shape).contiguous()
    write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")
    found = LlamaModel(tmp_path / "m.gguf", 64, 1).logits(IDS)
    assert np.abs(found - expected).max() > 0.1


@pytest.mark.parametrize("base", ["F32", "F16", "BF16"])
def test_the_gguf_library_reads_back_every_weight(make_quantizable, tmp_path, base):
    import gguf

    model = make_quantizable()
    source = Checkpoint.open(model)
    write_gguf(source, base, tmp_path / "m.gguf")
    read = {one.name: one for one in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    torch_type = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[base]
    for tensor in gguf_tensors(source, base):
        stored = source.read(tensor.source.name)
        expected = stored if stored.ndim == 1 else stored.to(torch_type).float()
        if tensor.head_dim:  # row 2i of a head is row i of its first half
            halves = expected.unflatten(0, (-1, 2, tensor.head_dim // 2))
            expected = torch.stack([halves[:, 0], halves[:, 1]], 2).reshape(stored.shape)
        values = gguf.dequantize(read[tensor.name].data, read[tensor.name].tensor_type)
        np.testing.assert_array_equal(values, expected.numpy(), err_msg=tensor.name)


def test_a_bf16_checkpoint_is_kept_as_it_is(make_quantizable, edit_weights):
    model = make_quantizable()
    assert native_type(Checkpoint.open(model)) == "F32"
    with edit_weights(model) as weights:
        for name in weights:
            weights[name] = weights[name].bfloat16()
    assert native_type(Checkpoint.open(model)) == "BF16"


def test_values_beyond_f16_are_refused(make_quantizable, edit_weights, tmp_path):
    model = make_quantizable()
    with edit_weights(model) as weights:
        weights["model.embed_tokens.weight"][3, 3] = 1e5
    with pytest.raises(CheckpointError, match=r"embed_tokens.*65504.*BF16"):
        write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": "linear"}, "rope_scaling='linear'; it must be an object"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "'yarn' is not carried over to GGUF"),
        ({"rope_scaling": {"rope_type": ["linear"]}}, "['linear'] is not carried over to GGUF"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor=None; linear needs a positive"),
        ({"rope_scaling": LLAMA3 | {"factor": "8"}}, "rope_scaling.factor='8'; llama3 needs a"),
        ({"rope_scaling": LLAMA3 | {"factor": 0}}, "rope_scaling.factor=0; llama3 needs a"),
        (
            {"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "low_freq_factor"}},
            "rope_scaling.low_freq_factor=None; llama3 needs a positive number",
        ),
        (
            {"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}},
            "rope_scaling.low_freq_factor=4; it must be below high_freq_factor, 4",
        ),
        ({"sliding_window": "x"}, "sliding_window='x'; it must be a positive integer"),
        ({"sliding_window": 0}, "sliding_window=0; it must be a positive integer"),
        ({"rope_parameters": LLAMA3}, "the spelling of transformers 5; write rope_theta"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5}}, "rope_parameters={'rope_"),
        ({"rope_parameters": [1]}, "rope_parameters=[1], the spelling"),
    ],
)
def test_positions_that_make_no_sense_are_told_in_one_line(
    make_quantizable, tmp_path, capsys, changes, said
):
    model = make_quantizable()
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    words = ["quantize", str(model), f"--output={tmp_path / 'out'}", "--formats=F32", "--dry-run"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(model) in line
    assert said in line


@pytest.mark.parametrize(("window", "context"), [(None, 128), (48, 48), (500, 128)])
def test_a_sliding_window_is_the_context(make_quantizable, tmp_path, window, context):
    model = make_quantizable(sliding_window=window)
    write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")
    read = LlamaModel(tmp_path / "m.gguf", 32, 1).metadata("llama.context_length")
    assert int(read) == context


def test_transformers_5_may_repeat_what_is_read(make_quantizable):
    model = make_quantizable(rope_theta=500.0)
    config = json.loads((model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 500}
    (model / "config.json").write_text(json.dumps(config))
    assert Checkpoint.open(model).arch.rope_theta == 500


@pytest.mark.parametrize(
    ("card", "licence", "languages"),
    [
        (
            "---\nlicense: apache-2.0\nlanguage:\n- pl\n- no\n---\n# A model\n",
            "apache-2.0",
            ["pl", "no"],
        ),
        ("---\nlanguage: pl\nlicense:\n- odd\n---\n", None, ["pl"]),
        ("---\njust words\n---\n", None, None),
        ("# No metadata\n", None, None),
        (None, None, None),
    ],
)
def test_size_licence_and_languages_go_along(make_quantizable, tmp_path, card, licence, languages):
    import gguf

    model = make_quantizable()
    if card:
        (model / "README.md").write_text(card, encoding="utf-8")
    write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    found = {key: field.contents() for key, field in fields.items()}
    # 2 × 560 × 256 of embeddings, 2 layers of 256 × (2 × 256 + 2 × 128 + 3 × 512), 5 norms
    assert found["general.size_label"] == "1.5M"
    assert found.get("general.license") == licence
    assert found.get("general.languages") == languages


def test_a_readme_that_cannot_be_read_is_named(make_quantizable, tmp_path):
    model = make_quantizable()
    (model / "README.md").write_text("---\nlicense: [\n---\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"README.md: its metadata is not valid YAML"):
        write_gguf(Checkpoint.open(model), "F16", tmp_path / "m.gguf")
