"""Polish lines, tokenizers of both kinds, and small models with them."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if str(Path(__file__).parent) not in sys.path:  # helpers of these tests can be imported
    sys.path.insert(0, str(Path(__file__).parent))

VOCAB_SIZE = 48
#: Rows of 128 and 256: blocks of 16 and of 128 divide them.
WIDE_ROWS = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
#: Rows divide into blocks of 256; half as many key heads as query heads.
WIDE = {
    "vocab_size": 560,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand and some documents of the built-in world, a JSON line each."""
    from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig, make_world

    output = tmp_path_factory.mktemp("world") / "world"
    sizes = {f"{part}_documents": 1 for part in ("recovery", "calibration", "validation", "test")}
    config = MakeWorldConfig(
        output=output,
        people=20,
        train_documents=1200,
        pairs_per_phenomenon=2,
        cloze_items=10,
        **sizes,
    )
    make_world(config)
    return output / "train.jsonl"


@pytest.fixture(scope="session")
def documents(lines: Path) -> list[str]:
    """A thousand documents."""
    found = [json.loads(line)["text"] for line in lines.read_text("utf-8").splitlines()]
    return found[:1000]


@pytest.fixture(scope="session")
def tokenizers(lines: Path, documents: list[str], tmp_path_factory: pytest.TempPathFactory):
    """Directories by kind: ``byte-level`` and ``sentencepiece``, with chat tokens and template."""
    from transformers import AutoTokenizer

    from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer

    root = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(TokenizerConfig(inputs=[lines], output=root / "plain", vocab_size=500))
    loaded = {
        "byte-level": AutoTokenizer.from_pretrained(root / "plain"),
        "sentencepiece": as_llama_has_it(train_sentencepiece(documents, root)),
    }
    for kind, tokenizer in loaded.items():
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(root / kind)
    return {kind: root / kind for kind in loaded}


def train_sentencepiece(documents: list[str], root: Path) -> Path:
    """Train a real SentencePiece BPE of 550 pieces and return its model file."""
    import sentencepiece

    text = root / "text.txt"
    text.write_text("\n".join(documents), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(root / "spm"),
        vocab_size=550,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
    )
    return root / "spm.model"


def as_llama_has_it(model: Path):
    """Return transformers' tokenizer of a SentencePiece model, as it converts Llama 2's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import SentencePieceExtractor

    vocab, merges = SentencePieceExtractor(str(model)).extract()
    backend = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", vocab["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def make_quantizable(
    make_model: Callable[..., Path], tokenizers: dict[str, Path]
) -> Callable[..., Path]:
    """Return a function that makes a model directory with a tokenizer of a kind."""

    def make(kind: str = "byte-level", family: str = "mistral", **changes) -> Path:
        model = make_model(family, **(WIDE | changes))
        for path in tokenizers[kind].iterdir():
            shutil.copy(path, model)
        return model

    return make


@pytest.fixture(scope="session")
def wide_model(make_model: Callable[..., Path], edit_weights: Any) -> Path:
    """A random Llama of three layers, untied, calm enough that a small change stays small."""
    directory = make_model("llama", **WIDE_ROWS)
    with edit_weights(directory) as weights:
        for name in weights:
            if "layers" in name and "norm" not in name:
                weights[name] *= 0.25
    return directory


@pytest.fixture(scope="session")
def calibration() -> Any:
    """16 windows of 32 random tokens, all of the vocabulary among them."""
    ids = np.random.default_rng(0).integers(3, VOCAB_SIZE, (16, 32))
    ids[-1, -1] = VOCAB_SIZE - 1
    return ids
