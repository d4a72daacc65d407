"""A tokenizer as llama.cpp reads it: byte-level BPE, or SentencePiece-style BPE.

llama.cpp does its own tokenising. A byte-level BPE goes over with its merges and the name of the
regular expression that splits text first (one of those that llama.cpp has by name). A
SentencePiece-style one (``▁`` for a space, ``<0x..>`` for bytes) goes over with scores: llama.cpp
joins the neighbours whose joint piece has the highest score, which is the merges' own order.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf

from nemo_bielik.checkpoint import Checkpoint, read_json
from nemo_bielik.data.generation import end_ids
from nemo_bielik.data.tokenizer import TextTokenizer, byte_alphabet, special_tokens
from nemo_bielik.errors import CheckpointError
from nemo_bielik.quantize.gguf_text import byte_level_split, frame, is_byte_level, prepends_space

_ROLES = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unk", "pad_token": "pad"}


@dataclass(kw_only=True)
class Vocabulary:
    """What a GGUF file says of its tokenizer.

    Attributes:
        model: ``gpt2`` (byte-level BPE) or ``llama`` (SentencePiece-style).
        split: llama.cpp's name of the regular expression that comes first.
        tokens: the pieces by id; ids that the tokenizer lacks are filled with unused ones.
        special_ids: role (``bos``, ``eos``, ``unk``, ``pad``, ``eot``) → id.
    """

    model: str
    split: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special_ids: dict[str, int] = field(default_factory=dict)
    add_bos: bool = True
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_template: str | list[dict[str, str]] | None = None

    def write(self, writer: gguf.GGUFWriter) -> None:
        """Add all of it to the metadata of a file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.split)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        for role, number in self.special_ids.items():
            getattr(writer, f"add_{role}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        writer.add_add_space_prefix(self.add_space_prefix)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocabulary(source: Checkpoint) -> Vocabulary:
    """Return the tokenizer of `source`; raise `CheckpointError` for one llama.cpp cannot have."""
    directory = source.directory
    TextTokenizer.open(directory)  # says what is wrong with a damaged one
    found = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    model = found["model"]
    if model.get("type") != "BPE":
        raise CheckpointError(
            f"{directory}: its tokenizer is a {model.get('type')} model; llama.cpp gets byte-level "
            "and SentencePiece-style BPE from here"
        )
    tokens, types = _tokens(found, source)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if any(len(merge.split(" ")) != 2 for merge in merges):
        raise CheckpointError(
            f"{directory}: a merge of its tokenizer holds a space, which a GGUF file cannot say"
        )
    common: dict[str, Any] = {"tokens": tokens, "types": types}
    common |= _specials(directory, found, tokens)
    if is_byte_level(found):
        _require_pieces(directory, byte_alphabet(), model["vocab"], "byte-level")
        split = byte_level_split(directory, found)
        return Vocabulary(model="gpt2", split=split, merges=merges, **common)
    if model.get("byte_fallback"):
        pieces = [f"<0x{byte:02X}>" for byte in range(256)]
        _require_pieces(directory, pieces, model["vocab"], "SentencePiece-style")
        _require_all_merges(directory, model["vocab"], merges)
        scores = _scores(tokens, merges)
        prefix = prepends_space(directory, found)
        return Vocabulary(
            model="llama", split="default", scores=scores, add_space_prefix=prefix, **common
        )
    raise CheckpointError(
        f"{directory}: its tokenizer is neither byte-level (pre_tokenizer ByteLevel) nor "
        "SentencePiece-style (byte_fallback); llama.cpp knows no other BPE"
    )


def _tokens(found: Mapping[str, Any], source: Checkpoint) -> tuple[list[str], list[int]]:
    """Return pieces and types by id, as many as the model has embeddings."""
    kinds = gguf.TokenType
    size = source.arch.vocab_size
    by_id: dict[int, tuple[str, int]] = {}
    for token, number in found["model"]["vocab"].items():
        is_byte = bool(found["model"].get("byte_fallback")) and _is_byte(token)
        by_id[number] = (token, kinds.BYTE if is_byte else kinds.NORMAL)
    for added in found.get("added_tokens", []):
        kind = kinds.CONTROL if added["special"] else kinds.USER_DEFINED
        by_id[added["id"]] = (added["content"], kind)
    unknown = found["model"].get("unk_token")
    for number, (token, _) in by_id.items():
        if token == unknown:
            by_id[number] = (token, kinds.UNKNOWN)
    if max(by_id) >= size:
        raise CheckpointError(
            f"{source.directory}: its tokenizer has ids up to {max(by_id)}, its model {size} "
            "embeddings; copy the tokenizer that belongs to the model"
        )
    filled = [by_id.get(number, (f"[PAD{number}]", kinds.UNUSED)) for number in range(size)]
    return [token for token, _ in filled], [int(kind) for _, kind in filled]


def _specials(directory: Path, found: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Return special ids, what is put around a text, and the chat template."""
    settings = read_json(directory / "tokenizer_config.json")
    named = special_tokens(directory, tuple(_ROLES))
    ids = {role: tokens.index(named[key]) for key, role in _ROLES.items() if named.get(key)}
    turns = [one for one in end_ids(directory, None) if one != ids.get("eos")]
    if turns:
        ids["eot"] = turns[0]
    template = settings.get("chat_template")
    file = directory / "chat_template.jinja"
    if file.is_file():
        template = file.read_text(encoding="utf-8")
    processor = found.get("post_processor")
    add_bos, add_eos = frame(directory, processor, named["bos_token"], named["eos_token"])
    return {
        "special_ids": ids,
        "add_bos": add_bos,
        "add_eos": add_eos,
        "chat_template": template,
    }


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """Return a score for every piece: the earlier it is merged, the higher."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", "", 1), rank)
    return [-float(ranks[token]) if token in ranks else 0.0 for token in tokens]


def _require_all_merges(directory: Path, vocab: Mapping[str, int], merges: list[str]) -> None:
    """Raise unless any two pieces that make a piece may be merged: llama.cpp merges them.

    Tokenizers that transformers made of SentencePiece models are so; those that were trained as
    Hugging Face's BPE know one way to each piece.
    """
    known = set(merges)
    made = {merge.replace(" ", "", 1) for merge in merges}
    for piece in made:
        for at in range(1, len(piece)):
            left, right = piece[:at], piece[at:]
            if left in vocab and right in vocab and f"{left} {right}" not in known:
                raise CheckpointError(
                    f"{directory}: its tokenizer never merges {left!r} with {right!r}, though "
                    f"{piece!r} is a piece; llama.cpp would. Retrain it byte-level, or save the "
                    "SentencePiece model anew with transformers' LlamaTokenizerFast"
                )


def _require_pieces(
    directory: Path, pieces: list[str], vocab: Mapping[str, int], kind: str
) -> None:
    missing = [piece for piece in pieces if piece not in vocab]
    if missing:
        raise CheckpointError(
            f"{directory}: its {kind} tokenizer lacks {len(missing)} of the 256 bytes "
            f"({missing[0]!r} first); llama.cpp cannot write every text with it"
        )


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")
