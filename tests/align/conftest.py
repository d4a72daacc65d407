"""A model of one layer that answers in whole words, and tasks for it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.data.chat_template import CHAT_TEMPLATE, CHAT_TEMPLATE_NAME

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "data"):
    if str(folder) not in sys.path:  # helpers of these tests can be imported
        sys.path.insert(0, str(folder))

WORDS = [f"w{number}" for number in range(12)]
VOCABULARY = ["<unk>", "<s>", "</s>", "user", "assistant", "system", *WORDS]


@pytest.fixture(scope="session")
def word_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of twelve words with this package's chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(VOCABULARY)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(VOCABULARY[:3])
    directory = tmp_path_factory.mktemp("words") / "tokenizer"
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (directory / CHAT_TEMPLATE_NAME).write_text(CHAT_TEMPLATE, encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def make_policy(
    word_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that writes a model trained so many steps on right answers."""

    def make(steps: int = 0, tied: bool = False, dtype: str = "float32") -> Path:
        import shutil

        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            bos_token_id=1,
            eos_token_id=2,
            tie_word_embeddings=tied,
        )
        model = LlamaForCausalLM(config)
        _teach(model, steps)
        directory = tmp_path_factory.mktemp("policy") / "model"
        model.to(getattr(torch, dtype)).save_pretrained(directory)
        shutil.copytree(word_tokenizer, directory, dirs_exist_ok=True)
        return directory

    return make


def _teach(model: Any, steps: int) -> None:
    """Train on ``<s> user A B </s> <s> assistant A </s>``, the loss on the answer."""
    import torch

    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = VOCABULARY.index("w0")
    for _ in range(steps):
        pairs = torch.randint(first, first + len(WORDS), (16, 2), generator=generator)
        ones = torch.ones(16, 1, dtype=torch.long)
        columns = [ones, 3 * ones, pairs, 2 * ones, ones, 4 * ones, pairs[:, :1], 2 * ones]
        ids = torch.cat(columns, dim=1)
        labels = ids.clone()
        labels[:, :7] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def copying_tasks(held_out: bool) -> list[dict[str, Any]]:
    """Tasks to say the first of two words; a quarter of the pairs is held out."""
    return [
        {"prompt": f"{a} {b}", "answer": a, "reward": "exact"}
        for i, a in enumerate(WORDS)
        for j, b in enumerate(WORDS)
        if ((i + 3 * j) % 4 == 0) == held_out
    ]


@pytest.fixture(scope="session")
def write_tasks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes JSON lines and returns their file."""

    def write(records: list[Any]) -> Path:
        path = tmp_path_factory.mktemp("tasks") / "tasks.jsonl"
        lines = [r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
        return path

    return write


@pytest.fixture(scope="session")
def tasks(write_tasks: Callable[..., Path]) -> Path:
    """Tasks to train on."""
    return write_tasks(copying_tasks(held_out=False))


@pytest.fixture(scope="session")
def held_out(write_tasks: Callable[..., Path]) -> Path:
    """Tasks that share no pair with those."""
    return write_tasks(copying_tasks(held_out=True))
