"""Answers of a model whose turns end otherwise than its texts, to prompts of different length."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_cases import PLAIN, write_lines, write_tokenizer

from nemo_bielik.align.grpo import GrpoConfig, grpo
from nemo_bielik.align.measure import RewardConfig, measure_reward
from nemo_bielik.align.rewards.grading import GradingConfig
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.errors import CheckpointError
from nemo_bielik.report.gather import read_metrics
from nemo_bielik.training import OptimConfig

pytest.importorskip("trl", reason="GRPO needs the extra 'align'")

PROMPTS = [" ".join(["What is it ? Look rain"] * repeats + ["It"]) for repeats in range(8)]
LONGEST = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, large enough that padding in a wrong place changes what is said."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = write_tokenizer(tmp_path_factory.mktemp("chat") / "model", PLAIN)
    tokenizer = ChatTokenizer.open(directory).tokenizer
    torch.manual_seed(10)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=96,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    ends = [2, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    return directory


@pytest.fixture(scope="module")
def alone(model: Path) -> dict[str, list[str]]:
    """What transformers writes greedily to each prompt by itself, as words."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    policy = AutoModelForCausalLM.from_pretrained(model).eval()
    found = {}
    for prompt in PROMPTS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_tensors="pt"
        )
        with torch.inference_mode():
            said = policy.generate(ids, max_new_tokens=LONGEST, do_sample=False, pad_token_id=0)
        found[prompt] = tokenizer.convert_ids_to_tokens(said[0, ids.shape[1] :].tolist())
    last = [words[-1] for words in found.values()]
    assert {"</s>", "<|im_end|>"} < set(last)  # both ends, and answers without
    return found


def without_end(words: list[str]) -> str:
    return " ".join(words[:-1] if words[-1] in ("</s>", "<|im_end|>") else words)


def test_training_answers_each_prompt_as_if_it_were_alone(
    model: Path, alone: dict[str, list[str]], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(Path(__file__).parent / "rewards")
    notes = tmp_path / "notes.jsonl"
    lines = [{"prompt": p, "reward": "noting", "notes": str(notes)} for p in PROMPTS]
    config = GrpoConfig(
        model=model,
        tasks=[write_lines(tmp_path / "tasks.jsonl", *lines)],
        output=tmp_path / "out",
        iters=1,
        prompts_per_step=len(PROMPTS),
        group_size=2,
        micro_batch_size=2 * len(PROMPTS),
        max_answer_tokens=LONGEST,
        temperature=1e-4,
        kl_beta=0.0,
        optim=OptimConfig(warmup_iters=0),
        grading=GradingConfig(own=["own_rewards:noting"], unfinished="grade"),
    )
    grpo(config)
    said = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    assert sorted(said) == sorted(2 * [[p, without_end(words)] for p, words in alone.items()])
    (metrics,) = read_metrics(tmp_path / "out" / "training" / "metrics.jsonl")
    unfinished = [words[-1] not in ("</s>", "<|im_end|>") for words in alone.values()]
    assert metrics["unfinished"] == pytest.approx(sum(unfinished) / len(alone))
    assert metrics["answer_tokens"] == pytest.approx(sum(map(len, alone.values())) / len(alone))


def test_measuring_answers_each_prompt_as_if_it_were_alone(
    model: Path, alone: dict[str, list[str]], tmp_path: Path
) -> None:
    lines = [{"prompt": p, "answer": "It", "reward": "exact"} for p in PROMPTS]
    tasks = write_lines(tmp_path / "tasks.jsonl", *lines)
    output = tmp_path / "out"
    measure_reward(
        RewardConfig(model=model, tasks=[tasks], output=output, max_answer_tokens=LONGEST)
    )
    items = [json.loads(line) for line in (output / "items.jsonl").open(encoding="utf-8")]
    for item in items:
        words = alone[item["prompt"]]
        assert item["answer"] == without_end(words)
        assert item["finished"] == (words[-1] in ("</s>", "<|im_end|>"))


def test_an_end_is_the_texts_or_one_that_the_generation_config_names(tmp_path: Path) -> None:
    directory = write_tokenizer(tmp_path / "tokenizer", PLAIN)
    for settings, ends in ((None, [2]), ({}, [2]), ({"eos_token_id": 4}, [2, 4])):
        if settings is not None:
            (directory / "generation_config.json").write_text(json.dumps(settings))
        opened = ChatTokenizer.open(directory)
        assert opened.ends == ends
    assert opened.up_to_end([7, 8, 4, 9, 2]) == [7, 8, 4]
    assert opened.up_to_end([7, 8]) == [7, 8]
    (directory / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json: is not valid JSON"):
        ChatTokenizer.open(directory)
