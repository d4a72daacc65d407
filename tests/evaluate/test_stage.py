"""The stage from files to files, and refusals that leave nothing behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, CheckpointError, ConfigError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.stage import evaluate
from nemo_bielik.manifest import Manifest
from nemo_bielik.recovery.stage import RecoveryConfig, recover

PAIRS = [
    {"phenomenon": "zgoda", "good": "mały dom", "bad": "mała dom"},
    {"phenomenon": "rekcja", "good": "ala ma kota", "bad": "ala ma kot"},
    {"phenomenon": "zgoda", "good": "stary las", "bad": "stara las"},
]
FACT = {"relation": "zwierzę", "prompt": "ala ma ", "answer": "psa", "candidates": ["psa", "las"]}


@pytest.fixture
def config(judged_model, write_lines, tmp_path):
    """Everything at once."""
    text = tmp_path / "text.txt"
    text.write_text("ala ma kota\n\nstary dom widzi las i rzekę " + "dom " * 90, encoding="utf-8")
    return EvaluateConfig(
        model=judged_model,
        output=tmp_path / "out",
        texts=[text],
        minimal_pairs=write_lines("pairs.jsonl", *PAIRS),
        facts=write_lines("facts.jsonl", FACT),
        sequence_length=64,
    )


def replace(config, **changes):
    return EvaluateConfig(**{**vars(config), **changes})


def items(output: Path, suite: str) -> list[dict]:
    lines = (output / "items.jsonl").read_text(encoding="utf-8").splitlines()
    return [item for item in map(json.loads, lines) if item["suite"] == suite]


def test_results_follow_from_the_items(config):
    evaluate(config)
    results = json.loads((config.output / "results.json").read_text(encoding="utf-8"))
    assert Manifest.load(config.output).results == results
    pairs, (fact,) = items(config.output, "minimal_pairs"), items(config.output, "facts")
    for pair in pairs:
        assert pair["score"] == float(pair["log_probs"]["good"] > pair["log_probs"]["bad"])
    assert [pair["sentence"] for pair in pairs] == [pair["good"] for pair in PAIRS]
    assert results["minimal_pairs_accuracy"] == sum(pair["score"] for pair in pairs) / 3
    agreement = [pair["score"] for pair in pairs if pair["group"] == "zgoda"]
    assert results["by_phenomenon"]["zgoda"] == {"accuracy": sum(agreement) / 2, "items": 2}
    assert fact["right"] == "psa" and set(fact["log_probs"]) == {"psa", "las"}
    assert results["fact_accuracy"] == fact["score"]
    assert results["fact_chance"] == 0.5
    assert results["by_relation"] == {"zwierzę": {"accuracy": fact["score"], "items": 1}}
    documents = items(config.output, "perplexity")
    assert [document["document"] for document in documents] == [0, 1]
    assert results["tokens"] == sum(document["tokens"] for document in documents)
    assert results["perplexity"] > 1


def test_recovery_reads_it(config, tmp_path):
    """A model is all of itself, in the suite that needs no declaration and with its own hash."""
    config = replace(config, facts=None)
    evaluate(config)
    kept = tmp_path / "kept"
    recover(
        RecoveryConfig(teacher=config.output, students=[config.output], output=kept, labels=["it"])
    )
    found = json.loads((kept / "results.json").read_text(encoding="utf-8"))
    (row,) = [row for row in found["rows"] if row["level"] == "suite"]
    results = json.loads((config.output / "results.json").read_text(encoding="utf-8"))
    assert row["student_score"] == pytest.approx(results["minimal_pairs_accuracy"])
    assert (row["suite"], row["recovery_percent"]) == ("minimal_pairs", 100.0)
    categories = {row["name"]: row["items"] for row in found["rows"] if row["level"] == "category"}
    assert categories == {"zgoda": 2, "rekcja": 1}
    assert found["students"][0]["perplexity"] == pytest.approx(results["perplexity"])
    assert found["students"][0]["fingerprints"] == [Checkpoint.open(config.model).fingerprint()]


def test_batch_sizes_agree(config, tmp_path):
    found = []
    for size in (1, 64):
        evaluate(replace(config, output=tmp_path / f"out{size}", batch_size=size))
        found.append(json.loads((tmp_path / f"out{size}" / "results.json").read_text()))
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=1e-5)
    assert found[0]["by_phenomenon"] == found[1]["by_phenomenon"]


def test_only_what_is_asked_for_is_in_the_results(config):
    evaluate(replace(config, texts=[], facts=None))
    results = json.loads((config.output / "results.json").read_text(encoding="utf-8"))
    assert set(results) == {"minimal_pairs_accuracy", "by_phenomenon"}


def test_a_second_run_is_skipped(config):
    evaluate(config)
    before = (config.output / "results.json").stat().st_mtime_ns
    evaluate(config)
    assert (config.output / "results.json").stat().st_mtime_ns == before


def test_bad_settings_are_refused(config):
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        replace(config, texts=[], minimal_pairs=None, facts=None)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        replace(config, batch_size=0)
    with pytest.raises(ConfigError, match=r"sequence_length is 65; .* knows 64 positions"):
        evaluate(replace(config, sequence_length=65))


def test_a_tokenizer_larger_than_the_model_is_refused(config, make_model):
    directory = make_model(vocab_size=299)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(config.model / name, directory)
    with pytest.raises(CheckpointError, match="tokenizer has 300 tokens, the model only 299"):
        evaluate(replace(config, model=directory))


@pytest.mark.parametrize(
    ("field", "content"),
    [
        ("texts", b"\n\n"),
        ("texts", b"\xff\n"),
        ("minimal_pairs", b'{"good": "a"}\n'),
        ("facts", b"[]\n"),
        ("facts", b""),
    ],
)
def test_bad_inputs_are_one_line_and_leave_nothing(config, tmp_path, capsys, field, content):
    bad = tmp_path / ("bad.txt" if field == "texts" else "bad.jsonl")
    bad.write_bytes(content)
    before = sorted(tmp_path.iterdir())
    option = "--" + field.replace("_", "-")
    command = ["evaluate", "--model", str(config.model), "--output", str(config.output)]
    assert cli.main([*command, option, str(bad), "--sequence-length", "64"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1 and str(bad) in lines[0]
    assert sorted(tmp_path.iterdir()) == before


def test_missing_models_and_tokenizers_are_refused(config, make_model, tmp_path):
    with pytest.raises(CheckpointError, match="no such model directory"):
        evaluate(replace(config, model=tmp_path / "none"))
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        evaluate(replace(config, model=make_model()))
    truncated = tmp_path / "truncated"
    shutil.copytree(config.model, truncated)
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(BielikError, match="truncated"):
        evaluate(replace(config, model=truncated))
    assert not config.output.exists()


def test_help_and_dry_runs_import_no_torch():
    code = "import sys, nemo_bielik.evaluate.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
