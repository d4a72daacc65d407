"""What a chain is given for its assistant is looked at before its first step."""

from pathlib import Path
from typing import Any

import pytest
from chat_cases import CONVERSATION, PLAIN, write_lines, write_tokenizer

from nemo_bielik.cli import main

PAIR = {"prompt": "What is it ?", "chosen": "It rains .", "rejected": "Thanks"}
TASK = {"prompt": "What is it ?", "answer": "rain", "reward": "exact"}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A chain on inputs for an assistant that can be used."""
    given = {
        "conversations": write_lines(tmp_path / "chat.jsonl", CONVERSATION),
        "preferences": write_lines(tmp_path / "pairs.jsonl", PAIR),
        "tasks": write_lines(tmp_path / "tasks.jsonl", TASK),
        "held_out_tasks": write_lines(tmp_path / "held_out.jsonl", TASK),
        "tokenizer": write_tokenizer(tmp_path / "tokenizer", PLAIN),
    }
    settings = [f"assistant.{name}={path}" for name, path in given.items()]
    return ["pipeline", f"--output={tmp_path / 'run'}", *settings]


def test_inputs_that_can_be_used_pass(words: list[str], capsys: Any) -> None:
    assert main([*words, "--dry-run"]) == 0
    assert "no such" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "name", "message"),
    [
        ("conversations", "pairs.jsonl", "holds preference pairs; give conversations"),
        ("preferences", "chat.jsonl", "holds conversations; give preference pairs"),
        ("tasks", "chat.jsonl", "holds conversations; give tasks"),
        ("held_out_tasks", "pairs.jsonl", "holds preference pairs; give tasks"),
        ("tokenizer", "bare", "its tokenizer has no chat template"),
    ],
)
def test_inputs_of_another_kind_stop_a_run_and_a_dry_run(
    words: list[str], tmp_path: Path, capsys: Any, setting: str, name: str, message: str
) -> None:
    write_tokenizer(tmp_path / "bare", None)
    for more in ([], ["--dry-run"]):
        assert main([*words, f"assistant.{setting}={tmp_path / name}", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line and str(tmp_path / name) in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("setting", ["conversations", "held_out_tasks", "tokenizer"])
def test_missing_inputs_stop_a_run_and_are_named_by_a_dry_run(
    words: list[str], tmp_path: Path, capsys: Any, setting: str
) -> None:
    """They may lie where jobs run, so a dry run goes on."""
    words = [*words, f"assistant.{setting}={tmp_path / 'none'}"]
    message = f"assistant.{setting}: {tmp_path / 'none'}: no such"
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*words, "--dry-run"]) == 0
    assert message in capsys.readouterr().out
