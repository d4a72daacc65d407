"""Text and tokens of a run: from the user's own model and text, or for a teacher to train."""

import pytest

from nemo_bielik.data.tiny_polish.world import WorldConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.prepare import PrepareConfig, prepare
from nemo_bielik.runs import Run

PARTS = {"calibration", "recovery", "test", "validation"}


@pytest.fixture
def text(tmp_path):
    """400 documents of words that the tests' tokenizer knows."""
    path = tmp_path / "text.txt"
    documents = (f"słowo{n % 37} słowo{n // 37} słowo5" for n in range(400))
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def test_a_given_model_brings_its_tokenizer(tokenizer_directory, text, tmp_path):
    run = Run(tmp_path / "run")
    prepare(PrepareConfig(output=run.root, model=tokenizer_directory, texts=[text]))
    assert {path.name for path in run.tokens("test").parent.iterdir()} == PARTS
    assert {path.stem for path in run.world.glob("*.jsonl")} == PARTS
    assert not run.tokenizer.exists()
    # <s> and </s> about three words of one document each
    documents = len(run.text("recovery").read_text("utf-8").splitlines())
    assert Manifest.load(run.tokens("recovery")).results["tokens"] == 5 * documents


def test_without_a_model_there_is_a_tokenizer_and_text_to_train_on(text, tmp_path):
    run = Run(tmp_path / "run")
    config = PrepareConfig(output=run.root, texts=[text], vocab_size=270)
    prepare(config)
    assert {path.name for path in run.tokens("test").parent.iterdir()} == {*PARTS, "train"}
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.bin")}
    prepare(config)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*.bin")} == before


def test_a_model_without_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="model needs texts"):
        PrepareConfig(output=tmp_path, model=tmp_path, world=WorldConfig())
