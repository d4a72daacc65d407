"""The prune stage from directory to directory, and everything it refuses."""

import json
import shutil
from collections import namedtuple

import pytest

from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.cli import main
from nemo_bielik.errors import BielikError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import is_linear
from nemo_bielik.pruning.change import target_arch
from nemo_bielik.pruning.prune import PruneConfig, describe, prune
from nemo_bielik.tensor_files import StoredTensor
from nemo_bielik.tensors import tensor_rows


@pytest.fixture
def model(make_model, tokenizer_directory):
    directory = make_model()
    shutil.copytree(tokenizer_directory, directory, dirs_exist_ok=True)
    return directory


@pytest.fixture
def scores(model, random_scores, tmp_path):
    source = Checkpoint.open(model)
    directory = tmp_path / "scores"
    random_scores(source.arch, source.fingerprint()).save(directory / "scores.safetensors")
    return directory


@pytest.fixture
def refused(tmp_path):
    """Return a function that expects a one-line error and an untouched output folder."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()

    def check(kind, words, **settings):
        before = sorted(outputs.iterdir())
        with pytest.raises(kind) as caught:
            prune(PruneConfig(output=outputs / "small", **settings))
        message = str(caught.value)
        assert "\n" not in message
        assert words in message
        assert sorted(outputs.iterdir()) == before

    return check


def test_prunes_and_says_where_from(model, scores, tmp_path, capsys, logits):
    output = tmp_path / "small"
    prune(PruneConfig(model=model, scores=scores, output=output, num_layers=3, hidden_size=16))
    result = Checkpoint.open(output)
    assert (result.arch.num_layers, result.arch.hidden_size) == (3, 16)
    assert (output / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert logits(output).shape == (2, 8, 48)
    manifest = Manifest.load(output)
    assert manifest.inputs["model"] == Checkpoint.open(model).fingerprint()
    before, after = (manifest.results[f"parameters_{when}"] for when in ("before", "after"))
    assert before * 4 == Checkpoint.open(model).num_bytes
    assert after * 4 == result.num_bytes
    assert manifest.results["reduction_percent"] == pytest.approx(100 - 100 * after / before, 0.01)
    plan = PruningPlan.load(output / "pruning_plan.json")
    assert manifest.results["kept_layers"] == plan.layers
    assert len(plan.hidden) == 16
    assert f"{after:,}" in capsys.readouterr().out


def test_a_second_run_does_nothing(model, scores, tmp_path, capsys):
    config = PruneConfig(model=model, scores=scores, output=tmp_path / "small", num_layers=3)
    prune(config)
    written = (config.output / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    prune(config)
    assert capsys.readouterr().out.strip() == f"{config.output}: already done"
    assert (config.output / "model.safetensors").stat().st_mtime_ns == written


def test_another_setting_for_the_same_output_is_refused(model, scores, tmp_path):
    config = {"model": model, "scores": scores, "output": tmp_path / "small"}
    prune(PruneConfig(**config, num_layers=3))
    with pytest.raises(StorageError, match="setting num_layers"):
        prune(PruneConfig(**config, num_layers=2))
    assert Checkpoint.open(tmp_path / "small").arch.num_layers == 3


def test_describe_says_what_would_happen_and_writes_nothing(model, scores, tmp_path):
    config = PruneConfig(model=model, scores=scores, output=tmp_path / "small", num_layers=3)
    lines = describe(config)
    assert any("num_layers" in line and "4" in line and "3" in line for line in lines)
    assert "to write" in lines[-1]
    assert not config.output.exists()
    prune(config)
    assert "already done" in describe(config)[-1]


def test_a_preset_gives_sizes_and_single_ones_win(model):
    arch = Checkpoint.open(model).arch.replace(
        num_layers=10, hidden_size=128, ffn_hidden_size=448, head_dim=16, num_attention_heads=8,
        num_query_groups=2,
    )  # fmt: skip
    given = {"model": model, "scores": model, "output": model}
    wanted = target_arch(PruneConfig(**given, target="tiny-exp-010", num_layers=7), arch)
    assert (wanted.num_layers, wanted.hidden_size, wanted.ffn_hidden_size) == (7, 128, 352)
    assert wanted.vocab_size == arch.vocab_size


def test_scores_of_another_model_are_refused(make_model, scores, refused):
    refused(DataError, "another model", model=make_model(seed=1), scores=scores, num_layers=3)


def test_a_folder_without_scores_is_refused(model, tmp_path, refused):
    refused(DataError, "bielik score", model=model, scores=tmp_path, num_layers=3)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"hidden_size": 999}, "at most"),
        ({"num_query_groups": 1}, "a group"),
        ({"num_query_groups": 4}, "multiple"),
        ({"target": "tiny-exp-010"}, "head_dim"),
    ],
)
def test_an_unreachable_target_is_refused(model, scores, refused, sizes, words):
    refused(ConfigError, words, model=model, scores=scores, **sizes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "nothing to prune"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"target": "exp-011"}, "did you mean 'exp-01"),
    ],
)
def test_bad_settings_fail_at_construction(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words):
        PruneConfig(model=tmp_path, scores=tmp_path, output=tmp_path, **settings)


def test_a_weight_that_is_not_a_number_leaves_nothing(
    make_model, edit_weights, random_scores, refused, tmp_path
):
    model = make_model(seed=2)
    with edit_weights(model) as weights:
        weights["lm_head.weight"][0, 0] = float("inf")  # the last tensor: all others are written
    source = Checkpoint.open(model)
    random_scores(source.arch, source.fingerprint()).save(tmp_path / "scores.safetensors")
    refused(BielikError, "lm_head.weight holds NaN", model=model, scores=tmp_path, num_layers=3)


def test_a_full_disk_is_noticed_before_the_work(model, scores, refused, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    refused(StorageError, "are free", model=model, scores=scores, num_layers=3)


def test_an_output_of_something_else_is_left_alone(model, scores, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "mine.txt").write_text("precious")
    config = PruneConfig(model=model, scores=scores, output=tmp_path / "small", num_layers=3)
    with pytest.raises(StorageError, match="not made by this package"):
        prune(config)
    assert (tmp_path / "small" / "mine.txt").read_text() == "precious"


def test_interruption_leaves_nothing(model, scores, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(StoredTensor, "row_blocks", interrupted)
    (tmp_path / "outputs").mkdir()
    config = PruneConfig(
        model=model, scores=scores, output=tmp_path / "outputs" / "small", num_layers=3
    )
    with pytest.raises(KeyboardInterrupt):
        prune(config)
    assert list((tmp_path / "outputs").iterdir()) == []


def test_the_command_prunes_and_reports_errors_in_one_line(model, scores, tmp_path, capsys):
    words = ["prune", "--model", str(model), "--scores", str(scores), "--output"]
    assert main([*words, str(tmp_path / "small"), "--num-layers", "3"]) == 0
    assert json.loads((tmp_path / "small" / "config.json").read_text())["num_hidden_layers"] == 3
    capsys.readouterr()
    assert main([*words, str(tmp_path / "other"), "--num-layers", "9"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error


def test_single_weights_are_zeroed_and_counted(model, tmp_path, logits):
    output = tmp_path / "sparse"
    prune(PruneConfig(model=model, output=output, method="magnitude", pattern="2:4"))
    results = Manifest.load(output).results
    weights = sum(row.numel for row in tensor_rows(Checkpoint.open(model).arch) if is_linear(row))
    assert results["zeros"] == weights // 2
    assert set(results["sha256"]) >= {"model.safetensors", "weight_edit.json", "config.json"}
    assert logits(output).shape == (2, 8, 48)
