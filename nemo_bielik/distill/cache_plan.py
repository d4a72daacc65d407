"""Which fragments of which rows a teacher cache will hold, and where: known before the first pass.

Everything but the records follows from the text alone, so the size is known to the byte, a shard
is whole or missing, and who computes it changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from nemo_bielik.distill.cache_format import (
    KEY,
    PLACE,
    Array,
    Fragments,
    RecordLayout,
    shard_name,
)
from nemo_bielik.errors import DataError

#: A fragment where it comes first: its row, first token and the one after the last, and its place.
PIECE = np.dtype([("row", "<i8"), ("start", "<i4"), ("end", "<i4"), *PLACE.descr])


def pieces_of(rows: Iterable[tuple[int, Fragments]]) -> tuple[Array, Array]:
    """Return `PIECE`s without places, and keys, of all fragments of numbered rows."""
    pieces, keys = [np.zeros(0, PIECE)], [np.zeros(0, KEY)]
    for number, row in rows:
        found = np.zeros(len(row.keys), PIECE)
        found["row"], found["positions"] = number, row.positions
        found["start"], found["end"] = row.bounds[:, 0], row.bounds[:, 1]
        pieces.append(found)
        keys.append(row.keys)
    return np.concatenate(pieces), np.concatenate(keys)


@dataclass(frozen=True)
class Plan:
    """Every fragment once, in the order of rows: `keys` [fragments], `pieces` of `PIECE`."""

    keys: Array
    pieces: Array

    @classmethod
    def make(cls, parts: Iterable[tuple[Array, Array]], rows_per_shard: int) -> Self:
        """Place what `pieces_of` found in all rows, part by part in their order.

        A shard holds what is new in `rows_per_shard` rows. Raises `DataError` if nothing is.
        """
        pieces, keys = (np.concatenate(found) for found in zip(*parts, strict=True))
        if not len(keys):
            raise DataError("no token of the training text carries loss; there is nothing to keep")
        first = np.sort(np.unique(keys, return_index=True)[1])
        return cls(keys[first], _placed(pieces[first], rows_per_shard))

    def save(self, directory: Path) -> None:
        """Write the plan into a directory."""
        np.save(directory / "keys.npy", self.keys)
        np.save(directory / "pieces.npy", self.pieces)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        return cls(np.load(directory / "keys.npy"), np.load(directory / "pieces.npy"))

    @property
    def shards(self) -> Array:
        """Records and fragments of every shard, [shards, 2]."""
        fragments = np.bincount(self.pieces["shard"])
        starts = np.cumsum(fragments) - fragments
        positions = np.add.reduceat(self.pieces["positions"], starts, dtype=np.int64)
        return np.stack([positions, fragments], axis=1)

    def of_shard(self, number: int) -> Array:
        """Return the pieces of one shard."""
        bounds = np.searchsorted(self.pieces["shard"], [number, number + 1])
        return self.pieces[bounds[0] : bounds[1]]

    def missing(self, directory: Path, layout: RecordLayout) -> list[int]:
        """Return the shards that are not whole in `directory`."""
        sizes = [layout.shard_bytes(*row) for row in self.shards.tolist()]
        paths = [directory / shard_name(number) for number in range(len(sizes))]
        return [
            number
            for number, (path, size) in enumerate(zip(paths, sizes, strict=True))
            if not path.is_file() or path.stat().st_size != size
        ]

    def save_index(self, directory: Path) -> None:
        """Write what a reader finds records by."""
        order = np.argsort(self.keys)
        places = np.empty(len(order), PLACE)
        for name in PLACE.names or ():
            places[name] = self.pieces[name][order]
        np.save(directory / "keys.npy", self.keys[order])
        np.save(directory / "places.npy", places)
        np.save(directory / "shards.npy", self.shards)


def _placed(pieces: Array, rows_per_shard: int) -> Any:
    """Fill in the places of pieces that are in the order of rows."""
    ordinal = np.unique(pieces["row"], return_inverse=True)[1]
    shard = ordinal // rows_per_shard
    starts = np.searchsorted(shard, np.arange(shard.max(initial=-1) + 1))
    before = np.cumsum(pieces["positions"], dtype=np.int64) - pieces["positions"]
    pieces["shard"] = shard
    pieces["fragment"] = np.arange(len(pieces)) - starts[shard]
    pieces["offset"] = before - before[starts][shard]
    return pieces
