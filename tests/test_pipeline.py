"""The chain as a user meets it: on their own text or model, stopped and continued."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from nemo_bielik.data.tiny_polish import WorldConfig, write_world

MODELS = ("teacher", "pruned", "distilled", "fine-tuned")
#: Two steps of fine-tuning behind the toy chain.
FINE_TUNING = ("iters=2", "sequence_length=64", "optim.warmup_iters=1")


def bielik(*words: object, check: bool = True) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "nemo_bielik", *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic text standing for a user's own: the built-in grammar's, as plain paragraphs."""
    directory = tmp_path_factory.mktemp("text")
    sizes = dict.fromkeys(("train", "recovery", "calibration", "validation", "test"), 1)
    config = WorldConfig(
        people=20,
        cloze_items=10,
        pairs_per_phenomenon=2,
        **{f"{split}_documents": count for split, count in (sizes | {"train": 1500}).items()},
    )
    write_world(directory / "world", config)
    rows = (directory / "world" / "train.jsonl").read_text("utf-8").splitlines()
    own = directory / "own.txt"
    own.write_text("\n\n".join(json.loads(row)["text"] for row in rows), encoding="utf-8")
    return own


@pytest.fixture(scope="module")
def finished(
    text: Path, toy_chain: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that was killed while it trained its teacher, and then finished by the same command."""
    run = tmp_path_factory.mktemp("runs") / "own"
    words = _words(run, text, toy_chain)
    first = subprocess.Popen(
        [sys.executable, "-m", "nemo_bielik", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _wait_for(run / "models" / ".teacher.work", first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert not (run / "models" / "teacher").exists()
    bielik(*words)
    return run


def _words(run: Path, text: Path, toy_chain: tuple[str, ...]) -> list[object]:
    """The command that makes a run on text and conversations."""
    chat = text.with_name("chat.jsonl")
    lines = [
        {"messages": [{"role": role, "content": f"{role} {n}"} for role in ("user", "assistant")]}
        for n in range(40)
    ]
    chat.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    words = ["pipeline", "--output", run, "--texts", text, *toy_chain]
    words.append(f"assistant.conversations={chat}")
    return [*words, *(f"assistant.sft.{setting}" for setting in FINE_TUNING)]


def _wait_for(path: Path, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_killed_run_is_finished_by_the_same_command(finished: Path) -> None:
    assert "</html>" in (finished / "report.html").read_text("utf-8")
    for name in MODELS:
        results = json.loads((finished / "evaluations" / name / "results.json").read_text())
        assert 1 < results["perplexity"] < 10_000
    leftovers = [path for path in finished.rglob(".*") if path.name.startswith(".")]
    assert not [path for path in leftovers if path.suffix in (".work", ".partial")], leftovers


def test_a_finished_run_is_left_as_it_is(
    finished: Path, text: Path, toy_chain: tuple[str, ...]
) -> None:
    before = _weights(finished)
    bielik(*_words(finished, text, toy_chain))
    assert _weights(finished) == before


def _weights(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}


def test_the_student_loads_in_plain_transformers_and_generates(finished: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = finished / "models" / "distilled"
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    prompt = tokenizer("Siostra", return_tensors="pt", return_token_type_ids=False)
    made = model.generate(**prompt, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert made.shape[1] == prompt["input_ids"].shape[1] + 5
    assert model.config.num_hidden_layers == 1
    assert model.config.intermediate_size == 32
    tuned = json.loads((finished / "models" / "fine-tuned" / "bielik_manifest.json").read_text())
    assert tuned["config"]["model"] == str(directory)
    assert tuned["results"]["preflight"]["train_data"]["examples"] == 40


def test_the_parts_of_a_users_text_are_disjoint(finished: Path) -> None:
    parts = {path.stem: set(path.read_text("utf-8").splitlines()) for path in _jsonl(finished)}
    assert set(parts) == {"train", "recovery", "calibration", "validation", "test"}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values()))


def _jsonl(run: Path) -> list[Path]:
    return sorted((run / "world").glob("*.jsonl"))


def test_a_users_own_model_is_the_teacher(
    finished: Path, text: Path, toy_chain: tuple[str, ...], tmp_path: Path
) -> None:
    run, model = tmp_path / "run", finished / "models" / "teacher"
    bielik("pipeline", "--output", run, "--model", model, "--texts", text, *toy_chain)
    assert not (run / "models" / "teacher").exists()
    assert not (run / "tokenizer").exists()
    manifest = json.loads((run / "models" / "distilled" / "bielik_manifest.json").read_text())
    assert manifest["config"]["teacher"] == str(model)
    assert (run / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--modle", "x"], "--model"),
        (["target.num_layer=1"], "num_layers"),
        (["--model", "nowhere"], "texts"),
        (["recovery.optim.max_lr=-1"], "max_lr"),
        (["recovery.parallel.tensor=0"], "tensor"),
    ],
)
def test_a_wrong_setting_is_one_line(words: Sequence[str], named: str, tmp_path: Path) -> None:
    result = bielik("pipeline", "--output", tmp_path / "run", *words, check=False)
    assert result.returncode == 2
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_lanes_are_said_before_any_stage_runs(text: Path, tmp_path: Path) -> None:
    words = ["--output", tmp_path / "run", "--texts", text, "--lanes", "1"]
    result = bielik("pipeline", *words, check=False)
    assert result.returncode == 2
    assert "train needs 2 processes, but lanes is 1" in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "run").exists()


def test_bad_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin2.txt").write_bytes("Zażółć gęślą jaźń".encode("iso8859-2"))
    words = ["--output", tmp_path / "run", "--texts", tmp_path / "latin2.txt"]
    result = bielik("pipeline", *words, check=False)
    assert result.returncode == 2
    assert "latin2.txt" in result.stderr and "UTF-8" in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert not list(tmp_path.glob("run/world"))


def test_a_missing_model_is_one_line(text: Path, tmp_path: Path) -> None:
    words = ["--output", tmp_path / "run", "--texts", text, "--model", tmp_path / "nowhere"]
    result = bielik("pipeline", *words, check=False)
    assert result.returncode == 2
    assert "nowhere" in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
