"""A tiny random model with its tokenizer, and texts to judge it by."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.checkpoint import copy_tokenizer
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer

SENTENCE = "ala ma kota psa dom las rzeka zażółć gęślą jaźń mały duży stary dobry widzi lubi"
WORDS = SENTENCE.split()
VOCAB_SIZE = 300


@pytest.fixture(scope="session")
def judged_model(make_model: Callable[..., Path], tmp_path_factory: Any) -> Path:
    """A random Mistral of 320 ids, 64 positions and sharp predictions, tokenizer of 300 beside."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[n:] + WORDS[:n]) for n in range(16)), encoding="utf-8")
    tokenizer = text.parent / "tokenizer"
    train_tokenizer(TokenizerConfig(inputs=[text], output=tokenizer, vocab_size=VOCAB_SIZE))
    model = make_model(vocab_size=VOCAB_SIZE + 20)
    copy_tokenizer(tokenizer, model)
    return model


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes objects as JSON lines and returns the path."""

    def write(name: str, *records: Any) -> Path:
        path = tmp_path / name
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
