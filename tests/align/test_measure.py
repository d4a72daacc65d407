"""What a model's own answers earn, and what a reader finds of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nemo_bielik.align.answering import read_answer
from nemo_bielik.align.rewards.grading import Answer
from nemo_bielik.cli import main
from nemo_bielik.data.chat import ChatTokenizer


def test_a_model_is_measured_by_kind(
    make_policy: Callable[..., Path],
    write_tasks: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pairs = [(f"w{n}", f"w{m}") for n in range(12) for m in range(12)]
    right = [{"prompt": f"{a} {b}", "answer": a, "reward": "exact"} for a, b in pairs]
    wrong = [row | {"answer": "w77", "kind": "never"} for row in right[:10]]
    form = [row | {"pattern": r"w\d+", "reward": "format", "kind": "form"} for row in right[:30]]
    tasks = write_tasks([*right, *wrong, *form, {"prompt": "w1"}])
    model = make_policy(steps=150)
    words = [f"--model={model}", f"--tasks={tasks}", "--max-answer-tokens=3", "--batch-size=50"]
    output = tmp_path / "measured"
    assert main(["reward", *words, f"--output={output}", "--malformed=skip"]) == 0
    assert '1 tasks skipped: "reward" is None' in capsys.readouterr().out

    results = json.loads((output / "results.json").read_text())
    items = [json.loads(line) for line in (output / "items.jsonl").open()]
    assert results["tasks"] == len(items) == 184
    assert results["by_kind"]["exact"]["reward"] > 0.9  # it was taught so
    assert results["by_kind"]["never"]["reward"] == 0
    assert results["by_kind"]["form"]["reward"] > 0.9
    for kind, found in results["by_kind"].items():
        rewards = [item["reward"] for item in items if item["kind"] == kind]
        assert found == {"reward": sum(rewards) / len(rewards), "tasks": len(rewards)}
    assert [item["prompt"] for item in items[:144]] == [row["prompt"] for row in right]
    for item in items[:144]:  # batches of prompts of different length change nothing
        assert item["reward"] == float(item["answer"] == item["wanted"])
    assert main(["reward", *words, f"--output={output}"]) == 2  # another policy for bad tasks


def test_a_model_without_a_template_is_measured_with_anothers(
    make_policy: Callable[..., Path],
    word_tokenizer: Path,
    tasks: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = make_policy(steps=20)
    words = ["reward", f"--model={model}", f"--tasks={tasks}", "--max-answer-tokens=3"]
    assert main([*words, f"--output={tmp_path / 'own'}"]) == 0
    (model / "chat_template.jinja").unlink()
    words.append(f"--output={tmp_path / 'given'}")
    assert main(words) == 2
    assert "no chat template" in capsys.readouterr().err
    assert main([*words, f"--tokenizer={word_tokenizer}"]) == 0
    own, given = ((tmp_path / name / "items.jsonl").read_text() for name in ("own", "given"))
    assert own == given


def test_special_tokens_stay_visible_and_an_end_is_needed(word_tokenizer: Path) -> None:
    tokenizer = ChatTokenizer.open(word_tokenizer)
    ids = tokenizer.tokenizer.convert_tokens_to_ids
    assert read_answer(tokenizer, ids(["w1", "</s>", "w2"])) == Answer("w1", finished=True)
    assert read_answer(tokenizer, ids(["w1", "w2"])) == Answer("w1 w2", finished=False)
    assert read_answer(tokenizer, ids(["<s>", "user", "</s>"])) == Answer("<s> user")
    assert read_answer(tokenizer, ids(["</s>"])) == Answer("")
