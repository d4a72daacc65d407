"""The files of a teacher cache: what a teacher said of fragments of text, found by their content.

A *fragment* is a document's tokens from where it begins in its row up to the last one that carries
loss: all that the teacher's distributions there depend on. Its key is a 128-bit BLAKE2b of these
tokens and of which of them carry loss; only those have a record. So a cache knows no rows, batches
or ranks, and text that comes again is stored once.

A cache is a directory of

keys.npy         [fragments] 16 bytes each, sorted
places.npy       [fragments] `PLACE`: where the records of each key lie
shards.npy       [shards, 2] records and fragments in each shard
shard-00000.bin  records, one a position, then the CRC-32 of each fragment's records
"""

import functools
import hashlib
import itertools
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.artifact_files import explain_fields
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest

STAGE = "cache-teacher"
KEY = np.dtype("S16")  # numpy sorts and searches these as bytes; one field, so nothing is copied
#: Shard, number of the fragment in it, first record in it, records.
PLACE = np.dtype([("shard", "<u4"), ("fragment", "<u4"), ("offset", "<u8"), ("positions", "<u4")])
_CHECKSUM = np.dtype("<u4")
_OPEN_SHARDS = 1024

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RecordLayout:
    """What is stored of every position; `temperatures` are those that have a remainder."""

    k: int
    vocab_size: int
    dtype: str
    temperatures: tuple[float, ...]

    @property
    def record(self) -> "np.dtype[Any]":
        """k ids, k log-probabilities at T = 1 and, unless k = V, a remainder a temperature."""
        ids = "<u2" if self.vocab_size <= 2**16 else "<i4"
        remainders = len(self.temperatures) if self.k < self.vocab_size else 0
        logarithm = np.dtype(self.dtype).newbyteorder("<")
        return np.dtype(
            [
                ("ids", ids, (self.k,)),
                ("log_probs", logarithm, (self.k,)),
                ("remainders", "<f4", (remainders,)),
            ]
        )

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one position that carries loss."""
        return self.record.itemsize

    def shard_bytes(self, positions: int, fragments: int) -> int:
        """Return the size of a shard's file."""
        return positions * self.bytes_per_token + fragments * _CHECKSUM.itemsize


@dataclass(frozen=True)
class Fragments:
    """The fragments of some rows laid end to end, those without loss left out.

    Attributes:
        bounds: [fragments, 2] first token and the one after the last.
        positions: [fragments] how many carry loss.
        keys: [fragments] of `KEY`.
    """

    bounds: Array
    positions: Array
    keys: Array

    @classmethod
    def of(cls, tokens: Array, position_ids: Array, loss_mask: Array) -> Self:
        """Return the fragments of rows laid end to end, all [n]; a fragment begins at position 0.

        The tokens must be those that the teacher reads, the mask not 0 where a token counts.
        """
        counts = loss_mask.astype(bool)
        starts = np.flatnonzero(position_ids == 0)
        positions = np.add.reduceat(counts, starts, dtype=np.int64)
        counted = np.flatnonzero(counts)
        last = counted[np.cumsum(positions)[positions > 0] - 1]
        bounds = np.stack([starts[positions > 0], last + 1], axis=1)
        ids = tokens.astype("<i4")
        digests = [
            hashlib.blake2b(ids[a:b].tobytes() + counts[a:b].tobytes(), digest_size=16).digest()
            for a, b in bounds.tolist()
        ]
        keys = np.frombuffer(b"".join(digests), dtype=KEY)
        return cls(bounds, positions[positions > 0], keys)


class TeacherCache:
    """A finished cache, opened for reading; files are mapped into memory, not loaded.

    Attributes:
        layout: what a record holds.
        manifest: of the stage that wrote it.
    """

    def __init__(self, directory: Path) -> None:
        """Open a cache; raise `DataError` if it is none, or damaged."""
        self.directory, self.manifest = directory, Manifest.load(directory)
        if self.manifest.stage != STAGE:
            raise DataError(
                f"{directory}: made by stage {self.manifest.stage!r}, no teacher cache; make one "
                "with `bielik cache-teacher`"
            )
        with explain_fields("teacher cache", directory):
            found = {part.name: self.manifest.results[part.name] for part in fields(RecordLayout)}
            self.layout = RecordLayout(**found | {"temperatures": tuple(found["temperatures"])})
        self._keys, self._places, shards = (
            self._load(f"{name}.npy") for name in ("keys", "places", "shards")
        )
        self._shards = np.array(shards)
        for number, (positions, fragments) in enumerate(self._shards.tolist()):
            self._check_size(number, self.layout.shard_bytes(positions, fragments))
        self._map = functools.lru_cache(_OPEN_SHARDS)(self._map_shard)

    def require(self, temperature: float, vocab_size: int) -> None:
        """Raise `ConfigError` or `DataError` unless it serves this temperature and vocabulary."""
        if vocab_size != self.layout.vocab_size:
            raise DataError(
                f"{self.directory}: of a teacher with a vocabulary of {self.layout.vocab_size}, "
                f"but the student's is {vocab_size}; distil between models that share a tokenizer"
            )
        temperatures = self.layout.temperatures
        if self.layout.k < vocab_size and temperature not in temperatures:
            raise ConfigError(
                f"temperature is {temperature:g}; {self.directory} holds the remainder for "
                f"{', '.join(f'{t:g}' for t in temperatures)} only: choose one of these, or write "
                f"a cache with temperatures={temperature:g}"
            )

    def missing(self, fragments: Fragments) -> Array:
        """Return the numbers of the fragments that are not in the cache."""
        return np.flatnonzero(self._find(fragments.keys) < 0)

    def read(self, fragments: Fragments) -> Array:
        """Return the records [positions] of all fragments, in their order.

        Raises `DataError` if one is missing or does not answer to its checksum.
        """
        places = self._find(fragments.keys)
        if (places < 0).any():
            raise DataError(self.lacks(f"{int((places < 0).sum())} fragments of a micro-batch"))
        found = [self._records(place) for place in self._places[places]]
        return np.concatenate([np.empty(0, self.layout.record), *found])

    def lacks(self, what: str) -> str:
        """Return the line that says what the cache does not hold, and what it was written for."""
        config = self.manifest.config
        held_out = config["validation_data"]
        rows = f"{self.manifest.results['sequences']:,} sequences of {config['train_data']}"
        if held_out is not None:
            rows += f" and {self.manifest.results['validation_sequences']:,} of {held_out}"
        return (
            f"{self.directory}: holds no teacher for {what}; it was written for {rows} with "
            f"sequence_length={config['sequence_length']} and seed={config['seed']}: use these, or "
            "write another with `bielik cache-teacher`"
        )

    def _find(self, keys: Array) -> Array:
        """Return the place of every key, −1 where there is none."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        places = np.searchsorted(self._keys, keys)
        places[places == len(self._keys)] = 0
        return np.where(self._keys[places] == keys, places, -1)

    def _records(self, place: Any) -> Array:
        records, checksums = self._map(int(place["shard"]))
        start = int(place["offset"])
        found = records[start : start + int(place["positions"])]
        if zlib.crc32(found.view("u1")) != checksums[int(place["fragment"])]:
            raise DataError(
                f"{self.directory / shard_name(int(place['shard']))}: damaged (a checksum does not "
                "fit); copy it again, or write the cache anew with `bielik cache-teacher`"
            )
        return found

    def _map_shard(self, number: int) -> tuple[Array, Array]:
        path = self.directory / shard_name(number)
        content = np.memmap(path, dtype=np.uint8, mode="r")
        edge = int(self._shards[number, 0]) * self.layout.bytes_per_token
        records: Array = content[:edge].view(self.layout.record)
        return records, content[edge:].view(_CHECKSUM)

    def _load(self, name: str) -> Array:
        try:
            if file_sha256(self.directory / name) != self.manifest.results["index_sha256"][name]:
                raise ValueError("its hash is not the manifest's")
            found: Array = np.load(self.directory / name, mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{self.directory / name}: missing or damaged ({error}); copy the cache again"
            ) from None
        return found

    def _check_size(self, number: int, expected: int) -> None:
        path = self.directory / shard_name(number)
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise DataError(
                f"{path}: holds {size:,} of {expected:,} bytes; copy it again, or write the cache "
                "anew with `bielik cache-teacher`"
            )


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.bin"


def write_shard(path: Path, records: Array, positions: Array) -> None:
    """Write the records of fragments of so many `positions` each, with their checksums."""
    edges = np.cumsum([0, *positions])
    assert edges[-1] == len(records), "every position has a record"
    checksums = [zlib.crc32(records[a:b].view("u1")) for a, b in itertools.pairwise(edges)]
    with path.open("wb") as stream:
        stream.write(records.tobytes())
        stream.write(np.array(checksums, dtype=_CHECKSUM).tobytes())
