"""The stage for servers, by its command: what it writes, refuses and predicts."""

import resource
from pathlib import Path

import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.quantize.modelopt_formats import FORMATS, find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers
from nemo_bielik.quantize.modelopt_memory import (
    CalibrationMemory,
    calibration_memory,
    output_bytes,
    require_memory,
)


@pytest.fixture
def words(wide_model, calibration, tmp_path):
    """Return a function to the words of a command that quantises the wide model."""

    def make(**changes: object) -> list[str]:
        settings = {
            "model": wide_model,
            "data": calibration,
            "output": tmp_path / "output",
            "format": "nvfp4",
            "samples": 16,
            "sequence_length": 32,
            "batch_size": 8,
        } | changes
        return ["quantize-server", *(f"{name}={value}" for name, value in settings.items())]

    return make


def test_the_command_writes_a_whole_checkpoint_once(words, wide_model, tmp_path, capsys):
    output = tmp_path / "output"
    assert main([*words(keep_first=1), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "14 of 21 linear layers in nvfp4" in said
    assert "calibration needs about" in said
    assert not output.exists()

    assert main(words(keep_first=1)) == 0
    assert "simulated on" in capsys.readouterr().out
    manifest = Manifest.load(output)
    written = (output / "model.safetensors").stat().st_size
    layers = choose_layers(
        Checkpoint.open(wide_model).arch, PrecisionConfig(format="nvfp4", keep_first=1)
    )
    predicted = output_bytes(Checkpoint.open(wide_model), find_format("nvfp4"), layers)
    assert predicted < written < predicted + 12_000  # the header and scales of single tensors
    assert manifest.results["bytes"] == written
    assert manifest.results["kept_layers"] == layers.kept
    assert manifest.results["arithmetic"].startswith("simulated on ")

    assert main(words(keep_first=1)) == 0
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "fp4"}, "did you mean"),
        ({"samples": 17}, "enough for 16 of 17 calibration samples"),
        ({"sequence_length": 65}, "knows 64 positions"),
        ({"kv_cache": "int4"}, "kv_cache"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"keep": '["*k_proj"]'}, "servers join the two"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, tmp_path, capsys, changes, message):
    assert main(words(**changes)) == 2
    said = capsys.readouterr().err.strip()
    assert message in said.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(words, tmp_path, capsys):
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
    try:
        assert main(words()) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "cannot be written (file too large)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_layers_that_blocks_do_not_fit_are_named(make_model, words, capsys):
    narrow = make_model("llama", hidden_size=32, intermediate_size=24)
    assert main([*words(model=narrow), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "kept in F32: model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj" in said
    assert "rows of 24 are not divisible by blocks of 16" in said


@pytest.mark.parametrize("name", FORMATS)
def test_memory_grows_with_the_model_and_the_batch(wide_model, name):
    checkpoint = Checkpoint.open(wide_model)
    layers = choose_layers(checkpoint.arch, PrecisionConfig(format=name))
    small = calibration_memory(checkpoint, 64, layers)
    large = calibration_memory(checkpoint, 6400, layers)
    assert small.weights == checkpoint.num_bytes
    assert large.working > small.working


def test_too_little_memory_is_refused_before_loading():
    with pytest.raises(ConfigError, match=r"will need 100000\d\.\d GB of .*memory, of which"):
        require_memory(CalibrationMemory(weights=10**15, working=0))


def test_the_output_may_not_stand_there_already(words, tmp_path: Path, capsys):
    (tmp_path / "output").mkdir()
    assert main(words()) == 2
    assert "already exists and was not made by this package" in capsys.readouterr().err
