"""Megatron's token files: ``tokens.bin`` (ids end to end) and ``tokens.idx`` (where each begins).

Written and read here in a few lines of numpy rather than through Megatron's own class: importing
anything below ``megatron.core`` takes about ten seconds and needs torch, and tokenising needs
neither. That the bytes are those of Megatron's builder, and that its reader takes them, is tested.

The index is little-endian: 9 bytes of magic, version (u64), data type (u8), number of sequences
(u64), number of document bounds (u64), length of each sequence (i32), its byte offset in the
``.bin`` (i64), document bounds (i64). One document is one sequence.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.errors import DataError

NAME = "tokens"
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES: dict[int, Any] = {4: np.dtype(np.int32), 8: np.dtype(np.uint16)}
#: Megatron's own limit for 16-bit tokens.
_UINT16_VOCABULARY = 65_500


def token_dtype(vocab_size: int) -> "np.dtype[Any]":
    """Return the smallest of Megatron's types that holds every id below `vocab_size`."""
    return np.dtype(np.uint16 if vocab_size < _UINT16_VOCABULARY else np.int32)


class TokenWriter:
    """Append documents to ``tokens.bin`` in `directory`; `finish` writes ``tokens.idx``."""

    def __init__(self, directory: Path, dtype: "np.dtype[Any]") -> None:
        self._directory, self._dtype = directory, dtype
        self._stream = (directory / f"{NAME}.bin").open("wb")
        self._lengths: list[NDArray[np.int32]] = []

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, tokens: NDArray[Any], lengths: NDArray[np.int32]) -> None:
        """Append documents: `tokens` [sum(lengths)] end to end, `lengths` [documents]."""
        self._stream.write(tokens.astype(self._dtype, copy=False).tobytes())
        self._lengths.append(lengths)

    def finish(self) -> tuple[int, int]:
        """Write the index and return (documents, tokens)."""
        self._stream.close()
        lengths = np.concatenate([np.empty(0, np.int32), *self._lengths])
        ends = np.cumsum(lengths, dtype=np.int64)
        code = next(code for code, dtype in _DTYPES.items() if dtype == self._dtype)
        with (self._directory / f"{NAME}.idx").open("wb") as index:
            index.write(_HEADER.pack(_MAGIC, 1, code, len(lengths), len(lengths) + 1))
            index.write(lengths.astype(np.int32).tobytes())
            index.write(((ends - lengths) * self._dtype.itemsize).tobytes())
            index.write(np.arange(len(lengths) + 1, dtype=np.int64).tobytes())
        return len(lengths), int(lengths.sum(dtype=np.int64))


def token_stats(directory: Path) -> tuple[int, int]:
    """Return (documents, tokens) of what ``bielik tokenize`` made; raise `DataError` if damaged."""
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
    tokens = int(lengths.sum(dtype=np.int64))
    whole_index = _HEADER.size + 12 * sequences + 8 * bounds
    if code not in _DTYPES or path.stat().st_size != whole_index:
        raise DataError(f"{path}: truncated or of another format; run `bielik tokenize` again")
    if path.with_suffix(".bin").stat().st_size != tokens * _DTYPES[code].itemsize:
        raise DataError(
            f"{directory}: {NAME}.bin does not hold the {tokens:,} tokens that {NAME}.idx names; "
            "run `bielik tokenize` again"
        )
    return sequences, tokens


def read_documents(directory: Path) -> Iterator[NDArray[Any]]:
    """Yield the token ids of each document, [tokens]; raise `DataError` if damaged."""
    sequences, _ = token_stats(directory)
    with (directory / f"{NAME}.idx").open("rb") as stream:
        code = _HEADER.unpack(stream.read(_HEADER.size))[2]
        lengths = np.fromfile(stream, dtype=np.int32, count=sequences)
    tokens = np.memmap(directory / f"{NAME}.bin", dtype=_DTYPES[code], mode="r")
    start = 0
    for length in lengths:
        yield tokens[start : start + length]
        start += int(length)
