"""Tokens on disk: what stands in them, the same for any number of workers, and refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bielik.data import tokenize as stage
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.data.tokenizer import TextTokenizer, TokenizerConfig, train_tokenizer
from nemo_bielik.errors import CheckpointError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import Manifest

SENTENCES = [f"Zażółć gęślą jaźń po raz {n}." for n in range(50)]


def write_texts(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 300 tokens."""
    directory = tmp_path_factory.mktemp("tokenizer")
    text = write_texts(directory / "text.jsonl", SENTENCES)
    output = directory / "tokenizer"
    train_tokenizer(TokenizerConfig(inputs=[text], output=output, vocab_size=280))
    return output


def read_tokens(directory: Path) -> list[int]:
    tokens: list[int] = np.fromfile(directory / "tokens.bin", np.uint16).tolist()
    return tokens


def test_documents_are_framed_and_counted(tokenizer, tmp_path):
    text = write_texts(tmp_path / "a.jsonl", ["Jaźń", "", "po </s> raz"])
    plain = tmp_path / "b.txt"
    plain.write_text("Zażółć\n\ngęślą", encoding="utf-8")
    output = tmp_path / "tokens"
    tokenize(TokenizeConfig(inputs=[text, plain], tokenizer=tokenizer, output=output))

    opened = TextTokenizer.open(tokenizer)
    documents = ["Jaźń", "po </s> raz", "Zażółć", "gęślą"]
    expected = [[1, *ids, 2] for ids in opened.encode_batch(documents)]
    assert read_tokens(output) == [token for ids in expected for token in ids]
    assert read_tokens(output).count(2) == 4  # the spelt-out </s> is text
    results = Manifest.load(output).results
    assert results["documents"] == 4 and results["skipped_documents"] == 1
    assert results["tokens"] == sum(map(len, expected))
    assert results["bytes"] == sum(len(text.encode()) for text in documents)
    assert stage.token_stats(output) == (4, results["tokens"])


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(tokenizer, tmp_path, monkeypatch, workers):
    monkeypatch.setattr(stage, "BYTES_WORTH_A_WORKER", 1)
    monkeypatch.setattr(stage, "_BLOCK_DOCUMENTS", 7)
    text = write_texts(tmp_path / "a.jsonl", SENTENCES * 4)
    outputs = []
    for count in (1, workers):
        outputs.append(tmp_path / f"tokens{count}")
        config = TokenizeConfig(
            inputs=[text], tokenizer=tokenizer, output=outputs[-1], workers=count
        )
        tokenize(config)
    for name in ("tokens.bin", "tokens.idx"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()


def test_an_error_beside_busy_workers_is_one_line_and_leaves_nothing(
    tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(stage, "BYTES_WORTH_A_WORKER", 1)
    monkeypatch.setattr(stage, "_BLOCK_DOCUMENTS", 7)
    text = write_texts(tmp_path / "a.jsonl", SENTENCES)
    with text.open("a") as stream:
        stream.write("{}\n")
    output = tmp_path / "tokens"
    with pytest.raises(DataError, match='line 51 has no "text"'):
        tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output, workers=2))
    assert list(tmp_path.iterdir()) == [text]


def test_workers_are_no_part_of_the_recipe(tokenizer, tmp_path):
    text = write_texts(tmp_path / "a.jsonl", SENTENCES)
    base: dict[str, Any] = {"inputs": [text], "tokenizer": tokenizer, "output": tmp_path / "out"}
    tokenize(TokenizeConfig(**base, workers=1))
    tokenize(TokenizeConfig(**base, workers=2))  # done already
    write_texts(text, SENTENCES[:3])
    with pytest.raises(StorageError, match="another input"):
        tokenize(TokenizeConfig(**base))


def test_text_without_a_token_is_refused(tokenizer, tmp_path):
    text = write_texts(tmp_path / "a.jsonl", ["", ""])
    output = tmp_path / "tokens"
    with pytest.raises(DataError, match="no document holds a single token"):
        tokenize(TokenizeConfig(inputs=[text], tokenizer=tokenizer, output=output))
    assert list(tmp_path.iterdir()) == [text]


def test_bad_settings_and_inputs_are_refused(tokenizer, tmp_path):
    output = tmp_path / "tokens"
    with pytest.raises(ConfigError, match="workers is 0"):
        TokenizeConfig(inputs=[tmp_path], tokenizer=tokenizer, output=output, workers=0)
    with pytest.raises(ConfigError, match="inputs is empty"):
        TokenizeConfig(inputs=[], tokenizer=tokenizer, output=output)
    missing = tmp_path / "none.jsonl"
    with pytest.raises(DataError, match="no such text"):
        tokenize(TokenizeConfig(inputs=[missing], tokenizer=tokenizer, output=output))
    with pytest.raises(CheckpointError, match=r"holds no tokenizer\.json"):
        tokenize(TokenizeConfig(inputs=[missing], tokenizer=tmp_path, output=output))
    assert not output.exists()
