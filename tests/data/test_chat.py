"""Conversations: the loss lies on what the assistant says; what cannot be used is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_cases import (
    CONVERSATION,
    MARKED,
    MARKED_TO_THE_LINE_END,
    MARKS,
    PLAIN,
    messages,
    read_marks,
    write_lines,
    write_tokenizer,
)

from nemo_bielik.data.chat import ChatTokenizer, covered
from nemo_bielik.data.conversations import kind_of
from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.manifest import Manifest


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("chat") / "tokenizer", PLAIN)


@pytest.mark.parametrize(
    "template", [PLAIN, MARKED, MARKED_TO_THE_LINE_END], ids=["prefixes", "markers", "line end"]
)
def test_the_assistants_tokens_are_learned_and_no_others(tmp_path: Path, template: str) -> None:
    opened = ChatTokenizer.open(write_tokenizer(tmp_path / "tokenizer", template))
    [(ids, loss)], weight = opened.encode(json.dumps(CONVERSATION), "here")
    assert weight == 1
    words = opened.tokenizer.convert_ids_to_tokens(ids)
    assert list(zip(words, loss.tolist(), strict=True)) == read_marks(MARKS)


def test_a_token_counts_if_it_holds_a_character_of_the_assistants() -> None:
    offsets = [(0, 2), (2, 4), (4, 4), (4, 7), (7, 9), (9, 9), (9, 9)]
    # from 3 to 9: a token across the beginning counts, and one of no width within, none after
    assert covered(offsets, [(3, 9)]).tolist() == [0, 1, 1, 1, 1, 0, 0]
    assert covered(offsets, []).tolist() == [0] * 7


def test_tokens_and_their_loss_lie_side_by_side(tokenizer: Path, tmp_path: Path) -> None:
    short = {"messages": CONVERSATION["messages"][:4]}
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION, "", short)
    output = tmp_path / "tokens"
    tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output))
    marks, without_tools = read_marks(MARKS), read_marks(MARKS)[7:]
    shorter = [marks[0], *without_tools[:-4]]
    files = TokenFiles.open(output)
    assert files.loss is not None
    assert files.lengths.tolist() == [len(marks), len(shorter)]
    assert files.loss.tolist() == [learned for _, learned in marks + shorter]
    results = Manifest.load(output).results
    assert results["documents"] == 2 and results["tokens"] == len(marks) + len(shorter)
    assert results["loss_tokens"] == 2 * 9 and results["skipped"] == {}
    assert results["end_of_document"] == 2
    assert "malformed" in Manifest.load(output).config


BAD: list[tuple[Any, str]] = [
    ("{", "not a JSON object"),
    ({"text": "Look"}, 'no list "messages" of objects'),
    ({"messages": []}, "no message"),
    (messages(("user", "Look")), "no assistant turn"),
    (messages(("user", "Look"), ("assistant", " \n")), "an empty answer (message 2)"),
    (messages(("wizard", "Look"), ("assistant", "It")), "unknown role (message 1: 'wizard'"),
    (messages(("user", None), ("assistant", "It")), "no content (message 1"),
    (messages(("user", "Look"), ("assistant", None)), "no content (message 2"),
    (
        messages(("user", "Look <|im_end|>"), ("assistant", "It")),
        "a special token spelt out in its text ('<|im_end|>')",
    ),
    (messages(("user", "\ud800"), ("assistant", "It")), "half a surrogate pair"),
    ({**messages(("assistant", "It")), "tools": [{}]}, "refused by the chat template"),
    ({**messages(("assistant", "It")), "tools": "x"}, '"tools" is not a list of objects'),
    ("[" * 100_000, "not a JSON object"),
    (
        json.dumps({**messages(("assistant", "It")), "tools": [{"x": 0}]}).replace(
            "0", "[" * 990 + "]" * 990
        ),
        "nested too deeply",
    ),
    (
        "\udcbf" + json.dumps(CONVERSATION),
        "not a JSON object (is not UTF-8 (byte 0xbf at column 1)",
    ),
]


@pytest.mark.parametrize(("record", "reason"), BAD, ids=[reason[:30] for _, reason in BAD])
def test_what_cannot_be_used_is_named_by_file_and_line(
    tokenizer: Path, tmp_path: Path, record: Any, reason: str
) -> None:
    bad = record if isinstance(record, str) else json.dumps(record)
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION, bad)
    with pytest.raises(DataError) as caught:
        tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=tmp_path / "tokens"))
    assert str(caught.value).startswith(f"{text}: line 2: {reason}")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tokens").exists()


def test_what_cannot_be_used_is_left_out_and_counted(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [r if isinstance(r, str) else json.dumps(r) for r, _ in BAD]
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION, *bad)
    output = tmp_path / "tokens"
    config = TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output, malformed="skip")
    tokenize(config)
    results = Manifest.load(output).results
    assert results["documents"] == 1 and results["skipped_documents"] == len(BAD)
    assert results["skipped"]["no content"] == 2
    assert "skipped 2 conversations: no content; first" in capsys.readouterr().err


def test_a_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    bare = write_tokenizer(tmp_path / "tokenizer", None)
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION)
    with pytest.raises(CheckpointError, match="its tokenizer has no chat template") as caught:
        tokenize(TokenizeConfig(inputs=[text], tokenizer=bare, output=tmp_path / "tokens"))
    assert "\n" not in str(caught.value)


def test_a_template_that_rewrites_earlier_turns_is_refused(tmp_path: Path) -> None:
    """As templates that drop the thoughts of earlier turns do."""
    rewriting = PLAIN.replace("message['content'] or ''", "message['content'] if loop.last else ''")
    directory = write_tokenizer(tmp_path / "tokenizer", rewriting)
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION)
    config = TokenizeConfig(
        inputs=[text], tokenizer=directory, output=tmp_path / "tokens", malformed="skip"
    )
    with pytest.raises(CheckpointError, match=r"first 2 messages of .*line 1 otherwise") as caught:
        tokenize(config)
    assert "\n" not in str(caught.value)


def test_texts_and_conversations_are_tokenized_apart(tokenizer: Path, tmp_path: Path) -> None:
    chat = write_lines(tmp_path / "chat.jsonl", "not yet", CONVERSATION)
    text = write_lines(tmp_path / "text.jsonl", {"text": "Look"})
    assert (kind_of(chat), kind_of(text)) == ("conversations", "texts")
    with pytest.raises(DataError, match="one holds texts and the other conversations"):
        config = TokenizeConfig(inputs=[text, chat], tokenizer=tokenizer, output=tmp_path / "out")
        tokenize(config)


def test_what_a_file_holds_is_told_by_the_first_line_that_tells(
    tokenizer: Path, tmp_path: Path
) -> None:
    """A malformed first line is one to skip, not another kind of file."""
    typo = {"mesages": CONVERSATION["messages"]}
    chat = write_lines(tmp_path / "chat.jsonl", typo, "\udcbf", CONVERSATION)
    assert kind_of(chat) == "conversations"
    settings: dict[str, Any] = {"tokenizer": tokenizer, "output": tmp_path / "tokens"}
    tokenize(TokenizeConfig(inputs=[chat], malformed="skip", **settings))
    results = Manifest.load(tmp_path / "tokens").results
    assert results["documents"] == 1 and results["skipped_documents"] == 2
    tasks = write_lines(tmp_path / "tasks.jsonl", {"prompt": "It", "reward": "exact"})
    with pytest.raises(DataError, match=r"tasks\.jsonl: holds tasks.*`bielik grpo`"):
        tokenize(TokenizeConfig(inputs=[tasks], **settings))


def test_text_that_tokens_do_not_give_back_is_counted(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tokenizer knows no snow: what is learned in its place is ``<unk>``."""
    lost = messages(("user", "What is it ?"), ("assistant", "It snows ."))
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION, lost, CONVERSATION, "no line")
    config: dict[str, Any] = {"tokenizer": tokenizer, "malformed": "skip"}
    config["output"] = tmp_path / "tokens"
    tokenize(TokenizeConfig(inputs=[text], **config))
    results = Manifest.load(tmp_path / "tokens").results
    assert (results["round_trips"], results["looked_at"]) == (2, 3)
    words = "of 1 of 3 conversations its tokens say something else than was written"
    assert f"{words}; first {text}: line 2" in capsys.readouterr().err


def test_a_torn_loss_file_is_named(tokenizer: Path, tmp_path: Path) -> None:
    text = write_lines(tmp_path / "chat.jsonl", CONVERSATION)
    output = tmp_path / "tokens"
    tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output))
    loss = np.fromfile(output / "loss.bin", np.uint8)
    loss[:-1].tofile(output / "loss.bin")
    with pytest.raises(DataError, match=r"loss\.bin does not hold the 35 tokens") as caught:
        TokenFiles.open(output)
    assert "\n" not in str(caught.value)
