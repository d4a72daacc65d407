"""Tokenizers: training one on text, and reading the one that stands in a model directory.

A directory holds Hugging Face's ``tokenizer.json`` and ``tokenizer_config.json``. Tokenising needs
the `tokenizers` library alone; transformers is imported only by `load_tokenizer`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from nemo_bielik.checkpoint import read_json
from nemo_bielik.data.chat_template import CHAT_TEMPLATE, CHAT_TEMPLATE_NAME
from nemo_bielik.data.text import read_documents, text_bytes, text_fingerprint
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
from nemo_bielik.files import file_sha256, value_sha256, write_json
from nemo_bielik.progress import progress
from nemo_bielik.stages import describe, is_done, stage_output

#: Their ids are their places here.
SPECIAL_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


@dataclass(kw_only=True)
class TokenizerConfig:
    """Train a byte-level BPE tokenizer with a chat template: any text round-trips."""

    inputs: list[Path] = field(metadata={"help": ".jsonl or .txt files, or saved datasets"})
    output: Path = field(metadata={"help": "tokenizer directory to make"})
    vocab_size: int = field(default=1024, metadata={"help": "tokens, special ones included"})
    document_separator: str | None = field(
        default=None, metadata={"help": "line between two documents of a .txt, if not a blank one"}
    )

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty; give at least one text")
        if self.vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocab_size is {self.vocab_size}; it must be at least {SMALLEST_VOCABULARY} "
                f"({len(SPECIAL_TOKENS)} special tokens and 256 bytes)"
            )


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer with the two ids that frame a document.

    Special tokens that are spelt out in a text are encoded as ordinary text, so no document can
    pretend to end early.
    """

    backend: Tokenizer
    bos_id: int
    eos_id: int
    fingerprint: str

    @classmethod
    def open(cls, directory: Path) -> "TextTokenizer":
        """Read a tokenizer or model directory; raise `CheckpointError` naming what is wrong."""
        path = _tokenizer_file(directory)
        try:
            backend = Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust library raises Exception itself
            raise CheckpointError(f"{path}: damaged tokenizer ({error}); copy it again") from None
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        special = special_tokens(directory)
        ids: dict[str, int] = {}
        for role in ("bos_token", "eos_token"):
            token = special.get(role)
            number = None if token is None else backend.token_to_id(token)
            if number is None:
                raise CheckpointError(
                    f"{directory}: {role} is {token!r}, which the tokenizer does not know; "
                    "set it in tokenizer_config.json"
                )
            ids[role] = number
        fingerprint = value_sha256([file_sha256(path), ids])
        return cls(backend, ids["bos_token"], ids["eos_token"], fingerprint)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id."""
        largest: int = max(self.backend.get_vocab(with_added_tokens=True).values())
        return largest + 1

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, without ``<s>`` and ``</s>``."""
        found = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=True)
        return text


def train_tokenizer(config: TokenizerConfig) -> None:
    """Train on `config.inputs` and write `config.output`; the same text gives the same bytes.

    Raises `DataError` if the text is too small for exactly `config.vocab_size` tokens.
    """
    total = text_bytes(config.inputs)
    inputs = {str(path): text_fingerprint(path) for path in config.inputs}
    manifest = describe("tokenizer", config, inputs)
    if is_done(config.output, manifest):
        return
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        with progress(total=total, unit="B", unit_scale=True, desc="tokenizer") as bar:
            tokenizer = _train(_corpus(config, bar), config.vocab_size)
        reached = tokenizer.get_vocab_size(with_added_tokens=True)
        if reached < config.vocab_size:
            raise DataError(
                f"{', '.join(map(str, config.inputs))}: too small for a vocabulary of "
                f"{config.vocab_size}; give more text or set vocab_size to at most {reached}"
            )
        _save(tokenizer, scratch)
        results |= {"vocab_size": reached, "bytes": total}


def load_tokenizer(directory: Path) -> Any:
    """Return transformers' fast tokenizer of a directory, read from its files alone.

    Raises `CheckpointError` if the directory has none or transformers cannot read it.
    """
    _tokenizer_file(directory)
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises whatever it stumbles over
        reason = (str(error) or type(error).__name__).partition("\n")[0]
        raise CheckpointError(f"{directory}: tokenizer cannot be read ({reason})") from None


def same_tokenizer(a: Path, b: Path) -> None:
    """Raise `CheckpointError` naming the first way in which two directories' tokens differ.

    Every token must have the same id in both, and ``<s>`` and ``</s>`` must be the same. Two
    directories that both lack a tokenizer pass: there is nothing to compare.
    """
    if not any((directory / "tokenizer.json").is_file() for directory in (a, b)):
        return
    first, second = TextTokenizer.open(a), TextTokenizer.open(b)
    difference = _vocabulary_difference(first.backend.get_vocab(), second.backend.get_vocab())
    for role in ("bos_id", "eos_id"):
        ids = getattr(first, role), getattr(second, role)
        if not difference and ids[0] != ids[1]:
            difference = f"{role} is {ids[0]} in the first and {ids[1]} in the second"
    if difference:
        raise CheckpointError(f"{a} and {b} have different tokenizers: {difference}")


def _vocabulary_difference(first: Mapping[str, int], second: Mapping[str, int]) -> str:
    if len(first) != len(second):
        return f"{len(first)} tokens in the first and {len(second)} in the second"
    for token, number in sorted(first.items(), key=lambda item: item[1]):
        other = second.get(token)
        if other != number:
            there = "is missing from" if other is None else f"is {other} in"
            return f"token {token!r} is {number} in the first and {there} the second"
    return ""


def _corpus(config: TokenizerConfig, bar: Any) -> Iterator[str]:
    for path in config.inputs:
        yield from read_documents(path, config.document_separator, bar.update)


def _train(texts: Iterator[str], vocab_size: int) -> Tokenizer:
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS.values()),
        # all 256, so that a byte unseen in training is still a token
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos} $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )
    return tokenizer


def _save(tokenizer: Tokenizer, directory: Path) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        **SPECIAL_TOKENS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # without this line transformers hands token_type_ids to models that know none
        "model_input_names": ["input_ids", "attention_mask"],
    }
    write_json(directory / "tokenizer_config.json", settings)
    write_json(directory / "special_tokens_map.json", SPECIAL_TOKENS)
    (directory / CHAT_TEMPLATE_NAME).write_text(CHAT_TEMPLATE, encoding="utf-8")


def _tokenizer_file(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such tokenizer directory")
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: holds no tokenizer.json; make one with `bielik tokenizer`, or save the "
            "model's own with transformers' AutoTokenizer…save_pretrained"
        )
    return path


def byte_alphabet() -> list[str]:
    """Return the 256 characters that stand for bytes in a byte-level tokenizer."""
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def special_tokens(directory: Path, roles: Sequence[str] = tuple(SPECIAL_TOKENS)) -> dict[str, str]:
    """Return the special tokens by role; later files fill what earlier ones leave out."""
    found: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = read_json(directory / name)
        for role in roles:
            token = values.get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                found.setdefault(role, token)
    return found
