"""The card as the hub's own library reads it, filled from manifests and results alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.recovery.card import plain_markdown
from nemo_bielik.recovery.card_model import read_card_model
from nemo_bielik.recovery.evaluations import read_evaluation
from nemo_bielik.recovery.pairing import Stage
from nemo_bielik.recovery.stage import RecoveryConfig, recover
from nemo_bielik.tensors import tensor_rows

Write = Callable[..., Path]
HOSTILE = "a|b\n# <b>`c`</b>: [x](y) ---"


def make_model(path: Path, layers: int) -> Path:
    """Write a Llama of zeros; a card reads shapes and hashes, no values."""
    path.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    (path / "config.json").write_text(json.dumps(config))
    arch = ModelArch.from_hf_config(config, path.name)
    tensors = {row.name: np.zeros(row.shape, np.float32) for row in tensor_rows(arch)}
    save_file(tensors, path / "model.safetensors")
    return path


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    """A teacher, and a student that two manifests trace back to it."""
    teacher, student = make_model(tmp_path / "big", 4), make_model(tmp_path / "small", 2)
    Manifest(
        stage="distill",
        config={"model": str(teacher), "iters": 7, "temperature": 2.0, "optim": {"max_lr": 1e-4}},
        inputs={"model": Checkpoint.open(teacher).fingerprint()},
        seed=11,
        results={"tokens": 123456},
    ).save(student)
    Manifest(stage="train", config={"iters": 99}, results={"tokens": 5}).save(teacher)
    return {"teacher": teacher, "student": student}


@pytest.fixture
def evaluations(models: dict[str, Path], evaluation: Write) -> dict[str, Path]:
    """Both models' evaluations of a limited suite, one task of a hostile name."""
    answers = {"teacher": "1111", "student": "1110"}
    found = {}
    for name, own in answers.items():
        items = [{"item": str(n), "score": float(a)} for n, a in enumerate(own)]
        tasks = {
            "polemo2": {"items": items, "dataset": "some/data", "split": "test", "few_shot": 5},
            HOSTILE: {"items": items, "language": "cs", "schema": "schema unverified"},
        }
        suites = {
            "open-pl": {"tasks": tasks, "limit": 4},
            "bfcl": {"status": "not run", "reason": "no server", "tasks": {}},
        }
        fingerprint = Checkpoint.open(models[name]).fingerprint()
        found[name] = evaluation(
            name, suites=suites, model=str(models[name]), fingerprint=fingerprint
        )
    return found


def card(evaluations: dict[str, Path], output: Path, **settings: Any) -> ModelCard:
    students = [evaluations["student"]]
    recover(
        RecoveryConfig(teacher=evaluations["teacher"], students=students, output=output, **settings)
    )
    return ModelCard.load(output / "README.md")


def test_the_hub_reads_its_metadata(evaluations: dict[str, Path], tmp_path: Path) -> None:
    found = card(
        evaluations,
        tmp_path / "out",
        name="Small-1B",
        license="apache-2.0",
        base_model="speakleash/Big",
        languages=["pl"],
    )
    assert found.data.license == "apache-2.0"
    assert found.data.base_model == "speakleash/Big"
    assert found.data.language == ["pl"]  # though items are in Czech too
    assert found.data.model_name == "Small-1B"
    results = found.data.eval_results
    assert [one.metric_value for one in results] == [0.75, 0.75]
    assert results[0].dataset_name == "open-pl: polemo2 (limited to 4 items a task or part)"
    assert (results[0].dataset_type, results[0].dataset_split) == ("some/data", "test")
    assert HOSTILE in results[1].dataset_name


def test_what_nobody_told_is_said_to_be_unknown(
    evaluations: dict[str, Path], tmp_path: Path
) -> None:
    found = card(evaluations, tmp_path / "out")
    assert found.data.license is None and found.data.language is None
    assert "The license was not told." in found.text


def test_architecture_training_and_scores_are_those_of_the_files(
    evaluations: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    text = card(evaluations, tmp_path / "out").text
    own, other = (Checkpoint.open(models[name]).arch for name in ("student", "teacher"))
    assert f"| layers | {own.num_layers} | {other.num_layers} |" in text
    assert (
        f"| parameters on disk | {count_parameters(own):,} | {count_parameters(other):,} |" in text
    )
    assert "| distill | iters 7, temperature 2.0, max\\_lr 0.0001 | 123,456 | 11 |" in text
    assert text.index("| train | iters 99") < text.index("| distill |")
    assert "it keeps 75.0\N{NO-BREAK SPACE}%" in text and "limited: open-pl" in text
    row = next(line for line in text.splitlines() if line.startswith("| open-pl | 1.000"))
    assert row.endswith("| 8 | limited to 4 items a task or part |")
    assert "bfcl (not run, teacher, distilled): no server" in text
    assert "Limited runs, not to be set beside full ones: open-pl." in text


def test_a_hostile_name_stays_in_its_cell(evaluations: dict[str, Path], tmp_path: Path) -> None:
    lines = card(evaluations, tmp_path / "out").text.splitlines()
    row = next(line for line in lines if "a\\|b" in line)
    assert plain_markdown(HOSTILE) in row and "<b>" not in row.replace("\\<b\\>", "")
    assert row.count(" | ") == next(line for line in lines if "polemo2" in line).count(" | ")
    assert not any(line.startswith("# <b>") for line in lines)


def test_another_model_gets_no_card(evaluations: dict[str, Path], models: dict[str, Path]) -> None:
    student = Stage("small", (read_evaluation(evaluations["student"]),))
    teacher = Stage("teacher", (read_evaluation(evaluations["teacher"]),))
    with pytest.raises(DataError, match="is not the model that was evaluated as small"):
        read_card_model(student, models["teacher"], teacher)
    config = models["student"] / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"rms_norm_eps": 0.5}))
    changed = read_card_model(student, None, teacher)
    assert changed.arch is None and "was not found" in changed.missing


def test_a_served_student_has_a_card_that_says_what_was_not_checked(
    evaluations: dict[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    """A quantised model, for example: its server gives no hash."""
    served = {"endpoint": "http://host:8000/v1", "endpoint_model": "small-fp8"}
    Manifest(stage="evaluate", config=served).save(evaluations["student"])
    text = card(evaluations, tmp_path / "out", labels=["quantised"]).text
    assert "Evaluated as *quantised* against *teacher*" in text
    assert "| open-pl | 1.000 | 0.750 | 75.0 % |" in text.replace("\xa0", " ")
    assert "\n# small-fp8\n" in text
    assert "is small-fp8 at http://host:8000/v1, whose weights were not at hand" in text
    page = (tmp_path / "out" / "recovery.html").read_text(encoding="utf-8")
    assert "small-fp8 at http://host:8000/v1" in page
    settings = {"labels": ["quantised"], "card_model": models["student"]}
    named = card(evaluations, tmp_path / "named", **settings).text
    assert "| layers | 2 | 4 |" in named
    assert "Not checked: that small-fp8 at http://host:8000/v1 was made of" in named


def test_a_source_that_is_gone_ends_the_chain(
    evaluations: dict[str, Path], models: dict[str, Path]
) -> None:
    student = Stage("small", (read_evaluation(evaluations["student"]),))
    teacher = Stage("teacher", (read_evaluation(evaluations["teacher"]),))
    (models["teacher"] / "config.json").unlink()
    found = read_card_model(student, None, teacher)
    assert [one.stage for one in found.made] == ["distill"]
    assert found.missing.startswith("What distill started from (hash ")
    assert found.teacher is None
