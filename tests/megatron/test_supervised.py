"""Fine-tuning on packed conversations: weights, whole epochs, and what an assistant needs."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import plain_reference as plain
import pytest
import torch
from chat_cases import MARKED, write_lines, write_tokenizer
from engine_room import write_tokens

from nemo_bielik.align.sft import SftConfig, describe
from nemo_bielik.checkpoint import copy_tokenizer
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import OptimConfig

SFT = "nemo_bielik.align.sft:sft"
LENGTH, BATCH = 32, 2
QUESTIONS = [
    ("What is it ?", "It rains .", 1.0),
    ("Look .", "Look .", 3.0),
    ("What ? " * 5, "rain", 0.5),
    ("Thanks", "It is rain . It is rain . It is rain .", 1.0),
    ("Tools ?", "weather", 1.0),
]

ANSWERED = [{"role": "user", "content": "What ? What ?"}, {"role": "assistant", "content": "rain"}]


@pytest.fixture(scope="module")
def chat(assistant, tmp_path_factory) -> Path:
    """Five conversations of different weights, tokenised by the model's own template."""
    folder = tmp_path_factory.mktemp("chat")
    records = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ],
            "weight": weight,
        }
        for question, answer, weight in QUESTIONS
    ]
    text = write_lines(folder / "chat.jsonl", *records)
    output = folder / "tokens"
    tokenize(TokenizeConfig(inputs=[text], tokenizer=assistant, output=output))
    return output


@pytest.fixture(scope="module")
def run(lanes, assistant, chat, tmp_path_factory):
    def run(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        lanes.run(SFT, settings(assistant, chat, output, **changes))
        return output

    return run


def settings(model: Path, data: Path, output: Path, **changes: Any) -> SftConfig:
    values: dict[str, Any] = {
        "model": model,
        "train_data": data,
        "output": output,
        "epochs": 3,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "optim": OptimConfig(max_lr=1e-3, min_lr=1e-3, warmup_iters=0, clip_grad=0.0),
    }
    return SftConfig(**values | changes)


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "training" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def rows_of(call, data: list[Path], epochs: int, samples: int, cache: Path) -> Any:
    arguments = (data, [], samples, LENGTH, cache)
    return call("packing_cases:training_rows", *arguments, epochs=epochs)[0]


def weighted_loss(model: Any, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Every conversation alone: Σ weight · surprise, divided by the tokens that are learned."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for piece in (piece for row in rows for piece in plain.segments(row)):
        logits = model(piece["tokens"][None]).logits
        surprise = plain.token_surprise(logits, piece["labels"][None])[0]
        total = total + (surprise * piece["loss_mask"]).sum()
        count += int((piece["loss_mask"] != 0).sum())
    return total / count


def test_a_rank_may_have_nothing_to_learn(call, run, assistant, tmp_path):
    """One short answer: all of it lies in one context rank's part, the other sends zeros back."""
    data = tmp_path / "one"
    text = write_lines(tmp_path / "one.jsonl", {"messages": ANSWERED})
    tokenize(TokenizeConfig(inputs=[text], tokenizer=assistant, output=data))
    (mask,) = rows_of(call, [data], 1, 1, tmp_path / "index")["loss_mask"]
    first, second, third, fourth = mask.view(4, 8).count_nonzero(dim=1).tolist()
    assert min(first + fourth, second + third) == 0 < mask.count_nonzero()
    whole, split = (
        lines(run(train_data=data, epochs=1, global_batch_size=1, parallel=parallel))
        for parallel in (ParallelConfig(), ParallelConfig(context=2))
    )
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in split] == pytest.approx([line[name] for line in whole])


def test_loss_and_gradients_are_those_of_weighted_conversations_run_alone(
    call, run, chat, assistant, tmp_path
):
    rows = rows_of(call, [chat], 1, BATCH, tmp_path / "index")
    assert set(rows["loss_mask"].unique().tolist()) == {0.0, 0.5, 1.0, 3.0}
    model = plain.load(assistant)
    loss = weighted_loss(model, plain.rows_of(rows, 0, BATCH))
    loss.backward()
    for parallel in (ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(context=2)):
        (line,) = lines(run(iters=1, parallel=parallel))
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(plain.gradient_norm(model), rel=1e-4)


def test_an_epoch_has_every_conversation_of_every_source_once(call, tmp_path):
    """A token of its own opens each document; rows of padding fill the last batch."""
    sources = [range(3, 16), range(16, 23)]
    data = [
        write_tokens(
            tmp_path / str(number),
            [[first, *[30] * (first % 9 + 3), 2] for first in source],
            [[0, *[1] * (first % 9 + 3), 1] for first in source],
        )
        for number, source in enumerate(sources)
    ]
    rows = rows_of(call, data, 2, 40, tmp_path / "index")
    starts = rows["tokens"][(rows["position_ids"] == 0) & (rows["tokens"] != 2)]
    assert Counter(starts.tolist()) == dict.fromkeys(range(3, 23), 2)
    blank = rows["loss_mask"].sum(1) == 0
    first_blank = int(blank.int().argmax())
    assert blank[first_blank:].all() and not blank[:first_blank].any()
    assert (rows["tokens"][blank] == 2).all()
    half = rows["tokens"][: first_blank // 2]
    assert (half[:, 0] < 16).any() and (half[:, 0] >= 16).any()  # sources are mixed


def test_steps_follow_from_epochs_and_the_output_is_an_assistant(run, chat, assistant):
    output = run()
    manifest = Manifest.load(output)
    (packing,) = manifest.results["packing"]
    assert packing["epochs"] == 3 and packing["documents"] == 5
    assert manifest.results["steps"] == -(-packing["rows"] // BATCH) == len(lines(output))
    report = manifest.results["preflight"]["train_data"]
    assert report["examples"] == 5 and report["truncated"] == report["left_out"] == 0
    assert report["loss_tokens"] == Manifest.load(chat).results["loss_tokens"]
    assert report["round_trips"] == report["looked_at"] == 5
    from transformers import AutoTokenizer, GenerationConfig

    assert AutoTokenizer.from_pretrained(output).chat_template == MARKED
    ending = AutoTokenizer.from_pretrained(output).convert_tokens_to_ids("<|im_end|>")
    # generation stops at the end of a turn and at the end of a text
    assert GenerationConfig.from_pretrained(output).eos_token_id == [2, ending]


def test_a_run_that_paused_in_mid_epoch_reads_what_is_left(run, lanes, assistant, chat, tmp_path):
    whole = lines(run(epochs=2, save_interval=1))
    config = settings(assistant, chat, tmp_path / "out", epochs=2, save_interval=1, stop_after=2)
    lanes.run(SFT, config)
    config.stop_after = None
    lanes.run(SFT, config)
    found = lines(tmp_path / "out")
    assert len(whole) > 2
    assert [line["loss"] for line in found] == [line["loss"] for line in whole]


def test_the_template_of_another_directory_goes_with_the_model(
    make_model, lanes, chat, assistant, tmp_path
):
    """A base model has none; its generation config is kept otherwise."""
    bare = make_model(seed=6, num_attention_heads=4, num_key_value_heads=2)
    (bare / "generation_config.json").write_text('{"temperature": 0.2, "eos_token_id": 9}')
    config = settings(bare, chat, tmp_path / "out", tokenizer=assistant, iters=9)
    lanes.run(SFT, config)
    assert len(lines(tmp_path / "out")) == 9  # more than three epochs have
    assert json.loads((bare / "generation_config.json").read_text())["eos_token_id"] == 9
    kept = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert kept["temperature"] == 0.2 and {2, 9} < {*kept["eos_token_id"]}
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        describe(settings(bare, chat, tmp_path / "other"))


def test_what_should_stop_a_run_does_so_before_the_engine(assistant, chat, tokens, tmp_path):
    with pytest.raises(DataError, match="holds texts, not conversations"):
        describe(settings(assistant, tokens, tmp_path / "out"))
    # the third conversation's answer begins behind token 12
    with pytest.raises(DataError, match=r"2 of 5 examples have no place in a sequence_length of 8"):
        describe(settings(assistant, chat, tmp_path / "out", sequence_length=8))
    reports = describe(settings(assistant, chat, tmp_path / "out", sequence_length=8, unfit="skip"))
    assert "2 are left out" in reports[0] and "'<|im_end|>'" in reports[1]
    other = write_tokenizer(tmp_path / "tokenizer", MARKED + " ")
    model = tmp_path / "model"
    model.mkdir()
    for path in assistant.iterdir():
        (model / path.name).symlink_to(path)
    for path in other.iterdir():
        (model / path.name).unlink()
    copy_tokenizer(other, model)
    with pytest.raises(DataError, match="made with another chat template than that of"):
        describe(settings(model, chat, tmp_path / "out"))


def test_pairs_stop_a_dry_run_as_they_would_the_run(assistant, tmp_path):
    pair = {"prompt": "What is it ?", "chosen": "It rains .", "rejected": "Look ."}
    text = write_lines(tmp_path / "pairs.jsonl", pair)
    tokenize(TokenizeConfig(inputs=[text], tokenizer=assistant, output=tmp_path / "tokens"))
    with pytest.raises(ConfigError, match="holds preference pairs"):
        describe(settings(assistant, tmp_path / "tokens", tmp_path / "out"))


def test_a_template_that_does_not_learn_its_end_is_refused(assistant, tmp_path):
    """Otherwise the word that answers end with most often would end every later one."""
    early = MARKED.replace("{{- '<|im_end|>' }}{% endgeneration %}", "{% endgeneration %}@")
    template = early.replace("@", "{{- '<|im_end|>' }}")
    tokenizer = write_tokenizer(tmp_path / "tokenizer", template)
    turns = [{"role": "user", "content": "What ?"}, {"role": "assistant", "content": "It rains ."}]
    text = write_lines(tmp_path / "chat.jsonl", {"messages": turns})
    tokens = tmp_path / "tokens"
    tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=tokens))
    with pytest.raises(CheckpointError, match=r"out of what is learned, which ends with '\.'"):
        describe(settings(assistant, tokens, tmp_path / "out", tokenizer=tokenizer))
