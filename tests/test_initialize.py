"""Random models: reproducible tensor by tensor, of the stated spread, loadable anywhere."""

import math
import shutil

import pytest
import torch

from nemo_bielik.arch import preset
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.initialize import InitializeConfig, initialize, random_tensor
from nemo_bielik.tensors import tensor_rows

PRESET = "tiny-bielik-11b-v3"
SMALL = {"arch": PRESET, "num_layers": 2}


def make(output, tokenizer, **settings):
    initialize(InitializeConfig(output=output, tokenizer=tokenizer, **settings))
    return Checkpoint.open(output)


def test_loads_and_generates_in_plain_transformers(tokenizer_directory, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = make(tmp_path / "model", tokenizer_directory, **SMALL)
    model, report = AutoModelForCausalLM.from_pretrained(made.directory, output_loading_info=True)
    assert not any(report.values())
    assert model.dtype == torch.float32
    assert (model.config.bos_token_id, model.config.eos_token_id) == (1, 2)
    tokenizer = AutoTokenizer.from_pretrained(made.directory)
    ids = tokenizer("słowo1 słowo2", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, 5)
    loss = model(ids, labels=ids).loss.item()
    assert loss == pytest.approx(math.log(1024), abs=0.3)  # it knows nothing


def test_spread_is_as_stated(tokenizer_directory, tmp_path):
    made = make(tmp_path / "model", tokenizer_directory, **SMALL)
    for name in made.tensors:
        weight = made.read(name)
        if name.endswith("norm.weight"):
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        residual = "o_proj" in name or "down_proj" in name
        wanted = 0.02 / math.sqrt(4) if residual else 0.02
        assert weight.std().item() == pytest.approx(wanted, rel=0.05)
        assert abs(weight.mean().item()) < wanted * 5 / math.sqrt(weight.numel())


def test_a_tensor_depends_on_seed_and_name_alone():
    arch = preset(PRESET)
    rows = {row.name: row for row in tensor_rows(arch)}
    name = "model.layers.3.mlp.up_proj.weight"
    first = random_tensor(rows[name], arch, seed=5)
    for row in reversed(rows.values()):  # whatever else was drawn before
        random_tensor(row, arch, seed=5)
    assert torch.equal(random_tensor(rows[name], arch, seed=5), first)
    assert not torch.equal(random_tensor(rows[name], arch, seed=6), first)
    neighbour = rows["model.layers.3.mlp.gate_proj.weight"]
    assert not torch.equal(random_tensor(neighbour, arch, seed=5), first)


def test_like_takes_the_architecture_and_not_the_weights(make_model, tokenizer_directory, tmp_path):
    model = make_model("llama", tie_word_embeddings=True)
    shutil.copytree(tokenizer_directory, model, dirs_exist_ok=True)
    made = make(tmp_path / "model", None, like=model)
    source = Checkpoint.open(model)
    assert made.arch.replace(name="") == source.arch.replace(name="")
    assert {name: t.shape for name, t in made.tensors.items()} == {
        name: t.shape for name, t in source.tensors.items()
    }
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(made.read(name), source.read(name))
    assert (made.directory / "tokenizer.json").is_file()


def test_a_second_run_does_nothing(tokenizer_directory, tmp_path, capsys):
    make(tmp_path / "model", tokenizer_directory, **SMALL)
    capsys.readouterr()
    make(tmp_path / "model", tokenizer_directory, **SMALL)
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "either --arch"),
        ({"arch": PRESET, "like": "model"}, "either --arch"),
        ({"arch": PRESET}, "needs --tokenizer"),
        ({"arch": "tiny-bielik"}, "did you mean"),
        ({"arch": PRESET, "num_query_groups": 3}, "multiple of"),
        ({"arch": PRESET, "head_dim": 3}, "even number"),
    ],
)
def test_bad_settings_fail_at_construction(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        InitializeConfig(output=tmp_path / "model", **settings)


def test_a_tokenizer_that_does_not_fit_is_refused(tokenizer_directory, tmp_path):
    with pytest.raises(CheckpointError, match=r"40 tokens, but .* vocab_size of 39"):
        make(tmp_path / "model", tokenizer_directory, **SMALL, vocab_size=39)
    make(tmp_path / "model", tokenizer_directory, **SMALL, vocab_size=40)


def test_a_missing_or_damaged_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        make(tmp_path / "model", tmp_path / "tokenizer", **SMALL)
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is not a tokenizer"):
        make(tmp_path / "model", tmp_path / "tokenizer", **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer"]
