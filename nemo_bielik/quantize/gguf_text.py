"""What a tokenizer does to a text around its merges, as far as a GGUF file can say it.

llama.cpp knows a few ways by name. A tokenizer with another one is refused: its tokens would differ
from those that the model was trained on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nemo_bielik.errors import CheckpointError

#: A step of a tokenizer, as ``tokenizer.json`` has it.
Part = Mapping[str, Any]

#: Regular expression before byte-level merging → llama.cpp's name of it. The first is what the
#: `tokenizers` library's ByteLevel does by itself.
_SPLITS = {
    "": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
_SPACE = "▁"
#: Characters of a tokenizer's steps that a message shows.
_SHOWN = 80
_PREPEND = {"type": "Prepend", "prepend": _SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
_METASPACE = {
    "type": "Metaspace",
    "replacement": _SPACE,
    "prepend_scheme": "never",
    "split": False,
}
#: Steps by which spaces become ``▁`` → whether one is put before a text too.
_SPACES: tuple[tuple[list[Part], bool], ...] = (
    ([_PREPEND, _REPLACE], True),
    ([_REPLACE], False),
    ([_METASPACE], False),
)


def is_byte_level(found: Mapping[str, Any]) -> bool:
    """Return whether ``tokenizer.json`` is of a byte-level tokenizer."""
    return any(part["type"] == "ByteLevel" for part in _parts(found.get("pre_tokenizer")))


def byte_level_split(directory: Path, found: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of how text is split before byte-level merging."""
    if normalizers := _parts(found.get("normalizer")):
        raise CheckpointError(
            f"{directory}: its tokenizer changes text before it is split ({_shown(normalizers)}); "
            "llama.cpp would not"
        )
    parts = _parts(found.get("pre_tokenizer"))
    byte_level = next(part for part in parts if part["type"] == "ByteLevel")
    patterns = [part["pattern"].get("Regex") for part in parts if part["type"] == "Split"]
    known = {part["type"] for part in parts} <= {"ByteLevel", "Split"}
    pattern = "" if byte_level.get("use_regex", True) and not patterns else None
    if len(patterns) == 1 and not byte_level.get("use_regex", True):
        pattern = patterns[0]
    if not known or pattern not in _SPLITS or byte_level.get("add_prefix_space"):
        raise CheckpointError(
            f"{directory}: its tokenizer splits text in a way that has no name in llama.cpp "
            f"({_shown(parts)}); known are {', '.join(_SPLITS.values())}"
        )
    return _SPLITS[pattern]


def prepends_space(directory: Path, found: Mapping[str, Any]) -> bool:
    """Return whether a SentencePiece-style tokenizer puts ``▁`` before a text.

    Raises `CheckpointError` unless spaces become ``▁`` and nothing else happens to a text.
    """
    parts = [*_parts(found.get("normalizer")), *_parts(found.get("pre_tokenizer"))]
    for known, prepends in _SPACES:
        if parts == known:
            return prepends
    for part in parts:
        if part["type"] == "Metaspace" and part.get("prepend_scheme") != "never":
            raise CheckpointError(
                f"{directory}: its tokenizer puts {_SPACE} before a text by Metaspace's "
                f"prepend_scheme={part.get('prepend_scheme')!r}, which llama.cpp does elsewhere: "
                "after special tokens, and before a space; known are 'never' and a Prepend"
            )
    raise CheckpointError(
        f"{directory}: its tokenizer changes text in a way that llama.cpp does not know "
        f"({_shown(parts)}); expected are spaces written as {_SPACE!r} alone"
    )


def frame(
    directory: Path, processor: Part | None, bos: str | None, eos: str | None
) -> tuple[bool, bool]:
    """Return whether a post-processor puts `bos` before a text, and `eos` after it.

    Raises `CheckpointError` for one that does anything else.
    """
    # the post-processor called ByteLevel moves offsets alone
    parts = [part for part in _parts(processor) if part["type"] != "ByteLevel"]
    if not parts:
        return False, False
    pieces = [next(iter(piece.items())) for piece in parts[0].get("single", ())]
    names = [value["id"] if kind == "SpecialToken" else None for kind, value in pieces]
    for before, after in ((True, False), (True, True), (False, True), (False, False)):
        if len(parts) == 1 and names == [bos] * before + [None] + [eos] * after:
            return before, after
    raise CheckpointError(
        f"{directory}: its tokenizer's post_processor ({_shown(parts)}) does something else than "
        f"putting {bos} before a text and {eos} after it, which is all that llama.cpp knows"
    )


def _parts(value: Part | None) -> list[Part]:
    """Return the members of a Sequence, or the one part itself."""
    if not value:
        return []
    for key in ("pretokenizers", "normalizers", "processors"):
        if key in value:
            return list(value[key])
    return [value]


def _shown(parts: Sequence[Part]) -> str:
    text = json.dumps(parts, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
