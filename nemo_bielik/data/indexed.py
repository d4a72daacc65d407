"""Megatron's token files: ``tokens.bin`` (ids end to end) and ``tokens.idx`` (where each begins).

Written and read here in a few lines of numpy rather than through Megatron's own class: importing
anything below ``megatron.core`` takes about ten seconds and needs torch, and tokenising needs
neither. That the bytes are those of Megatron's builder, and that its reader takes them, is tested.

The index is little-endian: 9 bytes of magic, version (u64), data type (u8), number of sequences
(u64), number of document bounds (u64), length of each sequence (i32), its byte offset in the
``.bin`` (i64), document bounds (i64). One document is one sequence.

Conversations have a third file beside the two, ``loss.bin``: one byte a token, 1 where the token is
to be learned (the assistant's) and 0 where it is only read. Preference pairs are two documents
each, the chosen answer's and then the rejected one's. Where examples count differently,
``weights.bin`` says how much: one float32 a document.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.errors import DataError

NAME = "tokens"
LOSS_FILE = "loss.bin"
WEIGHTS_FILE = "weights.bin"
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, Any] = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
#: Megatron's own limit for 16-bit tokens.
_UINT16_VOCABULARY = 65_500


def token_dtype(vocab_size: int) -> "np.dtype[Any]":
    """Return the smallest of Megatron's types that holds every id below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


@dataclass(frozen=True)
class Block:
    """Some consecutive documents: ids and loss end to end [tokens], lengths [documents].

    `loss` is None for plain text, `weights` [documents] where all count alike. `skipped` counts
    what was left out by reason, with the first example of each.
    """

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    num_bytes: int
    loss: NDArray[np.uint8] | None = None
    weights: NDArray[np.float32] | None = None
    skipped: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class TokenWriter:
    """Append documents to ``tokens.bin`` in `directory`; `finish` writes ``tokens.idx``."""

    def __init__(self, directory: Path, dtype: "np.dtype[Any]", with_loss: bool = False) -> None:
        self._directory, self._dtype = directory, dtype
        self._stream = (directory / f"{NAME}.bin").open("wb")
        self._loss = (directory / LOSS_FILE).open("wb") if with_loss else None
        self._lengths: list[NDArray[np.int32]] = []
        self._weights: list[NDArray[np.float32]] = []

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(
        self,
        tokens: NDArray[Any],
        lengths: NDArray[np.int32],
        loss: NDArray[np.uint8] | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        """Append documents: `tokens` and `loss` [sum(lengths)] end to end, `lengths` [documents].

        A writer that was opened `with_loss` needs it, another takes none; `weights` [documents] are
        1 if not given.
        """
        assert (loss is None) == (self._loss is None)
        self._stream.write(tokens.astype(self._dtype, copy=False).tobytes())
        if self._loss is not None and loss is not None:
            assert len(loss) == len(tokens)
            self._loss.write(loss.tobytes())
        self._lengths.append(lengths)
        self._weights.append(np.ones(len(lengths), np.float32) if weights is None else weights)

    def _close(self) -> None:
        self._stream.close()
        if self._loss is not None:
            self._loss.close()

    def finish(self) -> tuple[int, int]:
        """Write the index and return (documents, tokens)."""
        self._close()
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64)
        code = next(code for code, dtype in _DTYPES.items() if dtype == self._dtype)
        with (self._directory / f"{NAME}.idx").open("wb") as index:
            index.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1))
            index.write(lengths.astype(np.int32).tobytes())
            index.write(((ends - lengths) * self._dtype.itemsize).tobytes())
            index.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
        weights = np.concatenate([np.empty(0, np.float32), *self._weights])
        if (weights != 1).any():
            weights.astype("<f4").tofile(self._directory / WEIGHTS_FILE)
        return len(lengths), int(lengths.sum(dtype=np.int64))


@dataclass(frozen=True)
class TokenFiles:
    """What ``bielik tokenize`` made, mapped into memory: only what is looked at is read.

    Shapes: `tokens` and `loss` (None for plain text) [tokens], `lengths` and `weights` (None where
    all documents count alike) [documents].
    """

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    loss: NDArray[np.uint8] | None
    weights: NDArray[np.float32] | None = None

    @classmethod
    def open(cls, directory: Path) -> "TokenFiles":
        """Map the files of `directory`; raise `DataError` if they are missing or damaged."""
        code, lengths = _read_index(directory)
        tokens = int(lengths.sum(dtype=np.int64))
        _require_tokens(directory, f"{NAME}.bin", tokens, _DTYPES[code].itemsize)
        loss = weights = None
        if has_loss(directory):
            _require_tokens(directory, LOSS_FILE, tokens, 1)
            loss = _mapped(directory / LOSS_FILE, np.dtype(np.uint8), tokens)
        if (directory / WEIGHTS_FILE).is_file():
            _require_tokens(directory, WEIGHTS_FILE, len(lengths), 4, "documents")
            weights = _mapped(directory / WEIGHTS_FILE, np.dtype("<f4"), len(lengths))
        found = _mapped(directory / f"{NAME}.bin", _DTYPES[code], tokens)
        return cls(found, lengths, loss, weights)


def has_loss(directory: Path) -> bool:
    """Whether a directory of tokens says which of them are learned: it holds conversations."""
    return (directory / LOSS_FILE).is_file()


def token_stats(directory: Path) -> tuple[int, int]:
    """Return (documents, tokens) of what ``bielik tokenize`` made; raise `DataError` if damaged."""
    files = TokenFiles.open(directory)
    return len(files.lengths), len(files.tokens)


def read_documents(directory: Path) -> Iterator[NDArray[Any]]:
    """Yield the token ids of each document, [tokens]; raise `DataError` if damaged."""
    files = TokenFiles.open(directory)
    start = 0
    for length in files.lengths:
        yield files.tokens[start : start + length]
        start += int(length)


def _read_index(directory: Path) -> tuple[int, NDArray[np.int32]]:
    """Return the code of the tokens' type and the documents' lengths."""
    path = directory / f"{NAME}.idx"
    if not path.is_file() or not path.with_suffix(".bin").is_file():
        raise DataError(
            f"{directory}: holds no {NAME}.idx and .bin; make them with `bielik tokenize`"
        )
    with path.open("rb") as stream:
        header = stream.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(_MAGIC):
            raise DataError(f"{path}: is not a token index; run `bielik tokenize` again")
        _, _, code, sequences, bounds = _HEADER.unpack(header)
        lengths = np.fromfile(stream, dtype=np.int32, count=sequences)
    whole_index = _HEADER.size + 12 * sequences + 8 * bounds
    if code not in _DTYPES or path.stat().st_size != whole_index:
        raise DataError(f"{path}: truncated or of another format; run `bielik tokenize` again")
    return code, lengths


def _require_tokens(
    directory: Path, name: str, items: int, item_bytes: int, what: str = "tokens"
) -> None:
    if (directory / name).stat().st_size != items * item_bytes:
        raise DataError(
            f"{directory}: {name} does not hold the {items:,} {what} that {NAME}.idx names; "
            "run `bielik tokenize` again"
        )


def _mapped(path: Path, dtype: "np.dtype[Any]", tokens: int) -> NDArray[Any]:
    """Map a file; numpy cannot map one that is empty."""
    return np.memmap(path, dtype=dtype, mode="r") if tokens else np.empty(0, dtype)
