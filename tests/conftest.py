"""Tiny models, scores and logits that tests of every stage share."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import ScoreTable
from nemo_bielik.manifest import Manifest

TINY: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 6,  # not hidden / heads
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-3,  # large enough that a wrong eps shows
    "tie_word_embeddings": False,
}


#: A chain of two small layers and four steps a training.
TOY_CHAIN = (
    "--vocab-size=400",
    "--score-samples=16",
    "teacher_shape.num_layers=2",
    "teacher_shape.hidden_size=32",
    "teacher_shape.ffn_hidden_size=64",
    "teacher_shape.num_attention_heads=2",
    "teacher_shape.num_query_groups=1",
    "target.num_layers=1",
    "target.ffn_hidden_size=32",
    *(
        f"{stage}.{setting}"
        for stage in ("teacher", "recovery")
        for setting in (
            "iters=4",
            "sequence_length=32",
            "global_batch_size=8",
            "micro_batch_size=4",
            "eval_interval=2",
            "eval_iters=1",
            "optim.warmup_iters=1",
        )
    ),
    "teacher.save_interval=0",
)


@pytest.fixture(scope="session")
def toy_chain() -> tuple[str, ...]:
    """Return settings that bring ``bielik pipeline`` and ``bielik demo`` down to seconds."""
    return TOY_CHAIN


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a random Hugging Face directory and returns its path."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    families: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }

    def make(family: str = "mistral", seed: int = 0, shard: str = "5GB", **changes: Any) -> Path:
        config_class, model_class = families[family]
        torch.manual_seed(seed)
        model = model_class(config_class(**(TINY | changes), initializer_range=0.3))
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("norm.weight"):
                    weight.uniform_(0.5, 1.5)
        directory = tmp_path_factory.mktemp(family) / "model"
        model.save_pretrained(directory, max_shard_size=shard)
        return directory

    return make


@pytest.fixture(scope="session")
def logits() -> Callable[..., Any]:
    """Return a function from a model directory and token ids to logits, in plain transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[5, 1, 40, 7, 7, 23, 11, 2], [3, 9, 44, 0, 17, 30, 8, 6]])

    def run(directory: Path, tokens: Any = ids, dtype: Any = torch.float32) -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager"
        )
        with torch.no_grad():
            return model.eval()(tokens).logits

    return run


@pytest.fixture(scope="session")
def edit_weights() -> Callable[..., Any]:
    """Return a context manager over the weights of a single-shard directory, saved at its end."""
    from safetensors.torch import load_file, save_file

    @contextmanager
    def edit(directory: Path) -> Iterator[dict[str, Any]]:
        path = directory / "model.safetensors"
        weights = load_file(path)
        yield weights
        save_file(weights, path, metadata={"format": "pt"})

    return edit


@pytest.fixture(scope="session")
def random_scores() -> Callable[..., ScoreTable]:
    """Return a function that makes a score table of random positive sums."""

    def make(arch: ModelArch, model: str = "", seed: int = 0) -> ScoreTable:
        generator = np.random.default_rng(seed)
        layers, tokens = arch.num_layers, 64
        return ScoreTable(
            arch=arch,
            hidden=generator.uniform(1, 2, (2 * layers, arch.hidden_size)),
            ffn=generator.uniform(1, 2, (layers, arch.ffn_hidden_size)),
            heads=generator.uniform(1, 2, (layers, arch.num_attention_heads)),
            cosine=generator.uniform(0, tokens, layers),
            samples=8,
            tokens=tokens,
            model=model,
        )

    return make


@pytest.fixture(scope="session")
def tokenizer_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A word tokenizer of 40 tokens as transformers lays it out."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *(f"słowo{n}" for n in range(37))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "unk_token": "<unk>",
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def write_tokens() -> Callable[..., Path]:
    """Make a directory that stands for tokens as far as its manifest, whose fields it takes."""

    def write(directory: Path, **changes: Any) -> Path:
        directory.mkdir()
        (directory / "tokens.idx").touch()
        results = {"end_of_document": 2}
        manifest = Manifest(stage="tokenize", config={"inputs": ["a"]}, results=results)
        dataclasses.replace(manifest, **changes).save(directory)
        return directory

    return write
