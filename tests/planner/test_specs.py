"""Names of architectures: presets, directories, changes, and what is refused."""

import json
from pathlib import Path

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, tiny
from nemo_bielik.errors import BielikError
from nemo_bielik.planner.specs import resolve_arch

TINY = tiny(BIELIK_11B_V3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "my-model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(TINY.to_hf_config()))
    return path


@pytest.mark.parametrize("spec", ["exp-010", "EXP_010"])
def test_presets(spec: str) -> None:
    assert resolve_arch(spec) == EXPERIMENTS["exp-010"]


def test_directories_and_their_config(directory: Path) -> None:
    for spec in (directory, directory / "config.json"):
        assert resolve_arch(str(spec)) == TINY.replace(name="my-model")


def test_changes_apply_to_presets_directories_and_the_source(directory: Path) -> None:
    changes = {"num_layers": 4, "rope_theta": 5.0, "tie_word_embeddings": True}
    text = "num_layers=4,rope_theta=5,tie_word_embeddings=true"
    for base in (TINY.name, str(directory), "source"):
        changed = resolve_arch(f"{base}:{text}", source=TINY)
        assert changed == TINY.replace(name=f"{base}:{text}", **changes)


def test_source_stands_for_the_source() -> None:
    assert resolve_arch("source", source=TINY) == TINY


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("exp-011", "neither a preset nor a model directory (did you mean 'exp-010'?)"),
        ("source", "neither a preset"),
        ("./nowhere", "no such model directory"),
        ("exp-010:num_layer=4", "no field 'num_layer' (did you mean 'num_layers'?)"),
        ("exp-010:name=x", "no field 'name'"),
        ("exp-010:num_layers=4,ffn", "'ffn' is not of the form field=value"),
        ("exp-010:num_layers=few", "num_layers: 'few' is not a whole number"),
        ("exp-010:num_layers=0", "num_layers is 0; it must be a positive integer"),
        ("exp-010:num_query_groups=5", "must be a multiple of num_query_groups"),
    ],
)
def test_what_is_refused_is_said_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(BielikError) as caught:
        resolve_arch(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "not readable as JSON"),
        ("\xff", "not readable as JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "architecture None is not supported"),
        ('{"model_type": "gpt2"}', "architecture 'gpt2' is not supported"),
        ('{"model_type": "mixtral"}', "supported dense families are"),
        ('{"model_type": "llama"}', "config.json lacks the field 'num_attention_heads'"),
    ],
)
def test_a_directory_that_is_no_model_gets_one_line(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(BielikError) as caught:
        resolve_arch(str(tmp_path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_attention_heads": 0, "head_dim": None}, "config.json holds an odd value"),
        ({"num_attention_heads": "8"}, "num_attention_heads"),
        ({"rope_theta": "high"}, "config.json"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_a_config_with_odd_values_gets_one_line(
    directory: Path, change: dict[str, object], message: str
) -> None:
    (directory / "config.json").write_text(json.dumps(TINY.to_hf_config() | change))
    with pytest.raises(BielikError) as caught:
        resolve_arch(str(directory))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
