"""Formats for servers, by the command: what it writes, refuses and predicts."""

import json
import resource
from pathlib import Path

import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.quantize.memory import (
    Memory,
    calibration_memory,
    output_bytes,
    require_memory,
)
from nemo_bielik.quantize.modelopt_formats import FORMATS, find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers
from nemo_bielik.quantize.modelopt_reader import read_tensors


@pytest.fixture(scope="module")
def model(make_quantizable) -> Path:
    """A model whose rows of 256 and 512 every format's blocks divide, with a tokenizer."""
    return make_quantizable()


@pytest.fixture
def words(model, lines, tmp_path):
    """Return a function to the words of a command that quantises the model for servers."""

    def make(**changes: object) -> list[str]:
        settings = {
            "output": tmp_path / "output",
            "formats": "nvfp4",
            "texts": lines,
            "calibration_tokens": 512,
            "sequence_length": 32,
            "batch_size": 8,
            "context": 64,
        } | changes
        model_given = settings.pop("model", model)
        given = (f"{name}={value}" for name, value in settings.items() if value is not None)
        return ["quantize", str(model_given), *given]

    return make


def test_the_command_writes_a_whole_checkpoint_once(words, model, tmp_path, capsys):
    output = tmp_path / "output"
    assert main([*words(keep_first=1), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "7 of 14 linear layers quantised" in said
    assert "calibration needs about" in said
    assert not output.exists()

    assert main(words(keep_first=1)) == 0
    assert "transformers, simulated" in capsys.readouterr().out
    made = output / f"{model.name}-nvfp4"
    written = (made / "model.safetensors").stat().st_size
    layers = choose_layers(
        Checkpoint.open(model).arch, PrecisionConfig(format="nvfp4", keep_first=1)
    )
    predicted = output_bytes(Checkpoint.open(model), find_format("nvfp4"), layers)
    assert predicted < written < predicted + 12_000  # the header and scales of single tensors
    (row,) = json.loads((output / "quantize.json").read_text())["formats"]
    assert row["bytes"] == written
    assert row["kept_layers"] == layers.kept
    assert Manifest.load(made).results == row
    assert (made / "tokenizer.json").is_file()

    assert main(words(keep_first=1)) == 0
    assert "already done" in capsys.readouterr().out

    evaluate = ["evaluate", f"--model={made}", f"--output={tmp_path / 'scored'}"]
    assert main([*evaluate, "--suites", "belebele"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is a quantised checkpoint" in line
    assert "serve it and use --endpoint" in line


def test_the_bytes_of_every_format_are_known_beforehand(words, model, tmp_path):
    """All but scales of whole matrices, 4 bytes each."""
    assert main(words(formats=json.dumps(list(FORMATS)))) == 0
    source = Checkpoint.open(model)
    for name, kind in FORMATS.items():
        layers = choose_layers(source.arch, PrecisionConfig(format=name))
        tensors = read_tensors(tmp_path / "output" / f"{model.name}-{name}").values()
        written = sum(tensor.nbytes for tensor in tensors if tensor.ndim)
        assert written == output_bytes(source, kind, layers), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"formats": "nvfp"}, "did you mean 'nvfp4'"),
        ({"texts": None}, "nvfp4: scales come from calibration text"),
        ({"calibration_tokens": 10**9}, "1,000,000,000 are asked for"),
        ({"sequence_length": 129}, "knows 128 positions"),
        ({"kv_cache": "int4"}, "kv_cache"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"keep": '["*k_proj"]'}, "servers join the two"),
        ({"formats": "Q8_0", "keep_first": 1}, "are for servers' formats"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, tmp_path, capsys, changes, message):
    assert main(words(**changes)) == 2
    said = capsys.readouterr().err.strip()
    assert message in said.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_no_half_checkpoint(words, tmp_path, capsys):
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        assert main(words()) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "cannot be written (file too large)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == [".output.work", "bielik_manifest.json"]


def test_layers_that_blocks_do_not_fit_are_named(make_quantizable, words, capsys):
    narrow = make_quantizable(hidden_size=32, intermediate_size=24, head_dim=8)
    assert main([*words(model=narrow), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "kept in F32: model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj" in said
    assert "rows of 24 are not divisible by blocks of 16" in said


@pytest.mark.parametrize("name", FORMATS)
def test_memory_grows_with_the_model_and_the_batch(wide_model, name):
    checkpoint = Checkpoint.open(wide_model)
    layers = choose_layers(checkpoint.arch, PrecisionConfig(format=name))
    small = calibration_memory(checkpoint, 64, find_format(name), layers)
    large = calibration_memory(checkpoint, 6400, find_format(name), layers)
    assert small.weights == checkpoint.num_bytes
    assert large.working > small.working


def test_too_little_memory_is_refused_before_loading(words, tmp_path, monkeypatch, capsys):
    with pytest.raises(ConfigError, match=r"y will need 100000\d\.\d GB of .*memory, of which"):
        require_memory([Memory("y", 10**15, 0), Memory("x", 1, 0)])
    monkeypatch.setattr("nemo_bielik.quantize.memory._free_memory", lambda: (10**9, "memory"))
    monkeypatch.setattr("nemo_bielik.quantize.modelopt.load_model", pytest.fail)
    assert main(words()) == 2
    assert "calibration will need 1.4 GB of memory, of which 1.0 GB" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
