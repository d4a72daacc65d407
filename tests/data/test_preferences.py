"""Preference pairs: two documents each, the loss on the answers alone; weights of examples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_cases import (
    CONVERSATION,
    MARKED,
    PLAIN,
    messages,
    read_marks,
    write_lines,
    write_tokenizer,
)

from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.conversations import kind_of
from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.manifest import Manifest

#: The assistant speaks in the prompt too; the chosen answer calls a tool and reads what it says.
PAIR: dict[str, Any] = {
    "tools": [{"name": "weather"}],
    "prompt": [
        {"role": "user", "content": "What is it ?"},
        {"role": "assistant", "content": "It rains ."},
        {"role": "user", "content": "Look ."},
    ],
    "chosen": [
        {"role": "assistant", "content": None, "tool_calls": [{"function": "weather"}]},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains ."},
    ],
    "rejected": "Thanks",
}
PROMPT_MARKS = """
<s> <|im_start|> system Tools : weather <|im_end|>
<|im_start|> user What is it ? <|im_end|>
<|im_start|> assistant It rains . <|im_end|>
<|im_start|> user Look . <|im_end|>
"""
#: Marked by hand: what stands in [brackets] is learned.
CHOSEN_MARKS = f"""{PROMPT_MARKS}
<|im_start|> assistant [ <call> weather <|im_end|> ]
<|im_start|> tool rain <|im_end|>
<|im_start|> assistant [ It rains . <|im_end|> ]
"""
REJECTED_MARKS = f"{PROMPT_MARKS} <|im_start|> assistant [ Thanks <|im_end|> ]"
SIMPLE = {"prompt": "What is it ?", "chosen": "It rains .", "rejected": "Thanks"}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("pairs") / "tokenizer", PLAIN)


def make(tokenizer: Path, folder: Path, *records: Any, **settings: Any) -> Path:
    text = write_lines(folder / "pairs.jsonl", *records)
    output = folder / "tokens"
    tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output, **settings))
    return output


@pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["prefixes", "markers"])
def test_the_answers_tokens_are_learned_and_nothing_of_the_prompt(
    tmp_path: Path, template: str
) -> None:
    opened = ChatTokenizer.open(write_tokenizer(tmp_path / "tokenizer", template))
    documents, _ = opened.encode_pair(json.dumps(PAIR), "here")
    for (ids, loss), marks in zip(documents, (CHOSEN_MARKS, REJECTED_MARKS), strict=True):
        words = opened.tokenizer.convert_ids_to_tokens(ids)
        assert list(zip(words, loss.tolist(), strict=True)) == read_marks(marks)


def test_a_pair_is_two_documents_side_by_side(tokenizer: Path, tmp_path: Path) -> None:
    output = make(tokenizer, tmp_path, PAIR, {**SIMPLE, "weight": 2})
    files, results = TokenFiles.open(output), Manifest.load(output).results
    sizes = [len(read_marks(marks)) for marks in (CHOSEN_MARKS, REJECTED_MARKS)]
    assert files.lengths.tolist()[:2] == sizes and len(files.lengths) == 4
    assert results["pairs"] == 2 and results["documents"] == 4
    assert files.loss is not None and files.weights is not None
    assert files.loss[: sizes[0]].tolist() == [mark for _, mark in read_marks(CHOSEN_MARKS)]
    assert files.weights.tolist() == [1, 1, 2, 2]


def test_a_conversations_weight_is_kept_and_equal_ones_take_no_file(
    tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "even").mkdir()
    output = make(tokenizer, tmp_path, {**CONVERSATION, "weight": 0.25}, CONVERSATION)
    even = make(tokenizer, tmp_path / "even", {**CONVERSATION, "weight": 1}, CONVERSATION)
    weights = TokenFiles.open(output).weights
    assert weights is not None and weights.tolist() == [0.25, 1.0]
    assert TokenFiles.open(even).weights is None and not (even / "weights.bin").exists()
    np.ones(1, np.float32).tofile(output / "weights.bin")
    with pytest.raises(DataError, match=r"weights\.bin does not hold the 2 documents"):
        TokenFiles.open(output)


BAD: list[tuple[Any, str]] = [
    ({**SIMPLE, "rejected": SIMPLE["chosen"]}, "the two answers are equal"),
    ({**SIMPLE, "rejected": "It  rains ."}, "the two answers are equal"),  # as tokens
    ({**SIMPLE, "rejected": ""}, 'an empty answer ("rejected")'),
    ({**SIMPLE, "rejected": []}, "no message"),
    ({"prompt": "It", "chosen": "rains"}, 'no list "rejected" of objects'),
    ({"chosen": "It", "rejected": "rains"}, 'no list "prompt" of objects'),
    ({**SIMPLE, "prompt": []}, "no message"),
    ({**SIMPLE, "prompt": messages(("wizard", "It"))["messages"]}, "unknown role (message 1"),
    (
        {**SIMPLE, "prompt": messages(("user", "It"), ("assistant", "rains"))["messages"]},
        "the prompt ends with the assistant's turn",
    ),
    (
        {**SIMPLE, "chosen": {"role": "user", "content": "It"}},
        'an answer that is not the assistant\'s ("chosen")',
    ),
    ({**SIMPLE, "weight": 0}, '"weight" is not a number above 0 (0)'),
    ({**SIMPLE, "weight": "much"}, "\"weight\" is not a number above 0 ('much')"),
    ({**SIMPLE, "weight": 10**400}, '"weight" is beyond float32 (allowed are 1.2e-38 to 3.4e+38)'),
    ({**SIMPLE, "weight": 1e60}, '"weight" is beyond float32'),
    ({**SIMPLE, "weight": 1e-60}, '"weight" is beyond float32'),
    ({**SIMPLE, "prompt": "It " * 40}, "prompt longer than the context (46 of 30 tokens)"),
    ({**SIMPLE, "prompt": "It " * 7}, "pair longer than the context (32 of 30 tokens)"),
]


@pytest.mark.parametrize(("record", "reason"), BAD, ids=[reason[:30] for _, reason in BAD])
def test_what_cannot_be_used_is_named_by_file_and_line(
    tokenizer: Path, tmp_path: Path, record: Any, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        make(tokenizer, tmp_path, SIMPLE, record, context=30)
    assert str(caught.value).startswith(f"{tmp_path / 'pairs.jsonl'}: line 2: {reason}")
    assert "leave such preference pairs out with malformed=skip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_used_is_left_out_and_counted(
    tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [record for record, _ in BAD]
    output = make(tokenizer, tmp_path, SIMPLE, *bad, malformed="skip", context=30)
    results = Manifest.load(output).results
    assert results["pairs"] == 1 and results["skipped_documents"] == len(BAD)
    assert results["skipped"]["the two answers are equal"] == 2
    assert "skipped 2 preference pairs: the two answers are equal; first" in capsys.readouterr().err


def test_a_conversation_whose_answer_begins_beyond_the_context_is_refused(
    tokenizer: Path, tmp_path: Path
) -> None:
    long = messages(("user", "It " * 40), ("assistant", "rains"))
    with pytest.raises(DataError, match=r"line 1: prompt longer than the context \(46 of 20"):
        make(tokenizer, tmp_path, long, context=20)
    with pytest.raises(ConfigError, match="context is -1"):
        make(tokenizer, tmp_path, long, context=-1)


def test_a_template_that_rewrites_the_prompt_is_refused(tmp_path: Path) -> None:
    rewriting = MARKED.replace("<|im_start|>assistant\\n' }}{% endif %}", "Look' }}{% endif %}")
    directory = write_tokenizer(tmp_path / "tokenizer", rewriting)
    with pytest.raises(CheckpointError, match=r"writes the prompt of .*line 1 otherwise") as caught:
        make(directory, tmp_path, SIMPLE)
    assert "\n" not in str(caught.value)


def test_pairs_are_told_from_conversations(tokenizer: Path, tmp_path: Path) -> None:
    pairs = write_lines(tmp_path / "pairs.jsonl", SIMPLE)
    chat = write_lines(tmp_path / "chat.jsonl", CONVERSATION)
    assert kind_of(pairs) == "preference pairs"
    with pytest.raises(DataError, match="one holds preference pairs and the other conversations"):
        tokenize(TokenizeConfig(inputs=[pairs, chat], tokenizer=tokenizer, output=tmp_path / "out"))
