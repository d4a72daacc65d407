"""Rows for the engine: whole documents packed into them, several sources blended.

What a row is made of is decided by `nemo_bielik.data.packing`; here the rows are read, and rank 0
writes each epoch's plan once where every rank maps it into memory. Shapes: [s], one row.
"""

import bisect
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.data.packing import (
    Rows,
    cut_pieces,
    interleave,
    pack,
    pair_pieces,
    truncated_pieces,
)
from nemo_bielik.data.sources import end_of_document, holds_pairs, tokens_fingerprint
from nemo_bielik.errors import DataError
from nemo_bielik.files import atomic_file, value_sha256, write_json
from nemo_bielik.megatron.model import on_rank_zero

Row = dict[str, NDArray[Any]]


class WholeDocuments(Dataset[Any]):
    """Rows in which every document is whole; what is left of a row is padding.

    The padding is the token that ends documents, carries no loss and stands behind a boundary of
    its own, so that no document sees it and it sees none. Of preference pairs both answers lie in
    one row, the chosen one first. What is learned has its document's weight in the loss mask.
    """

    def __init__(
        self, files: TokenFiles, epochs: list[Rows], filler: int, pairs: bool = False
    ) -> None:
        self.files, self.epochs, self.filler, self.pairs = files, epochs, filler, pairs
        self.ends = list(itertools.accumulate(map(len, epochs)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch = bisect.bisect_right(self.ends, index)
        rows = self.epochs[epoch]
        pieces = rows[index - self.ends[epoch] + len(rows)]
        row = blank_row(rows.row_length, self.filler)
        end = 0
        for start, length, goes_on, document in self._documents(pieces):
            self._write(row, slice(end, end + length), start, goes_on, document)
            end += length
        row["position_ids"][end:] -= end
        return tensors(row)

    def _documents(self, pieces: NDArray[Any]) -> Iterator[tuple[int, int, bool, int]]:
        """Yield what a row holds, document by document, as `PIECE` says."""
        for start, length, goes_on, document in pieces.tolist():
            if not self.pairs:
                yield start, length, goes_on, document
                continue
            chosen = int(self.files.lengths[document])
            yield start, chosen, False, document
            yield start + chosen, length - chosen, False, document + 1

    def _write(self, row: Row, places: slice, start: int, goes_on: bool, document: int) -> None:
        """Write one piece; what its last token predicts is known if its document goes on."""
        first, end = places.start, places.stop
        stop = start + end - first
        known = slice(first, end if goes_on else end - 1)
        following = slice(start + 1, stop + 1 if goes_on else stop)
        row["tokens"][places] = self.files.tokens[start:stop]
        row["labels"][known] = self.files.tokens[following]
        row["loss_mask"][known] = 1 if self.files.loss is None else self.files.loss[following]
        if self.files.weights is not None:
            row["loss_mask"][known] *= self.files.weights[document]
        row["position_ids"][places] -= first


def blank_row(length: int, filler: int) -> Row:
    """Return a row of padding alone, [length] each field."""
    tokens = np.full(length, filler, np.int64)
    return {
        "tokens": tokens,
        "labels": tokens.copy(),
        "loss_mask": np.zeros(length, np.float32),
        "position_ids": np.arange(length),
    }


def tensors(row: Row) -> dict[str, Tensor]:
    """Return a row's fields as torch knows them."""
    return {name: torch.from_numpy(values) for name, values in row.items()}


class WholeEpochs(Dataset[Any]):
    """Every row of several sources once, evenly mixed; rows of padding fill the last batch."""

    def __init__(self, sources: list[WholeDocuments], samples: int) -> None:
        self.samples = samples
        shares = [float(len(source)) for source in sources]
        self.blend = Blend(lambda n, _: sources[n], shares, sum(map(len, sources)))
        self.blank = blank_row(sources[0].epochs[0].row_length, sources[0].filler)

    def __len__(self) -> int:
        return max(self.samples, len(self.blend))

    def __getitem__(self, index: int) -> Any:
        return self.blend[index] if index < len(self.blend) else tensors(self.blank)


class Blend(Dataset[Any]):
    """Rows of several datasets, interleaved by `weights`; a dataset's own order is kept."""

    def __init__(
        self, make: Callable[[int, int], Dataset[Any]], weights: list[float], rows: int
    ) -> None:
        """`make` builds the dataset of a source from its number and the rows that it gives."""
        self.source = interleave(weights, rows)
        self.place = np.empty(rows, np.int64)
        self.datasets: list[Dataset[Any]] = []
        for source in range(len(weights)):
            rows_of = np.flatnonzero(self.source == source)
            self.place[rows_of] = np.arange(len(rows_of))
            self.datasets.append(make(source, max(len(rows_of), 1)))

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.datasets[self.source[index]][int(self.place[index])]


class After(Dataset[Any]):
    """A dataset that stands behind `first` samples which an earlier phase has read.

    It has one sample more than will be read: Megatron's sampler refuses to start at the very end,
    where a run stands that was stopped after its last checkpoint.
    """

    def __init__(self, dataset: Any, first: int, samples: int) -> None:
        self.dataset, self.first, self.samples = dataset, first, samples

    def __len__(self) -> int:
        return self.first + self.samples + 1

    def __getitem__(self, index: int) -> Any:
        return self.dataset[(index - self.first) % self.samples]


def whole_documents(
    directory: Path, samples: int, length: int, seed: int, cache: Path, epochs: int = 0
) -> WholeDocuments:
    """Return rows of `length` tokens: at least `samples`, or those of exactly so many epochs.

    Every epoch has an order of its own. Pairs that are longer than a row are left out.
    Conversations that are longer than a row lose their ends; longer texts go on in another row.
    """
    files = TokenFiles.open(directory)
    name = value_sha256([tokens_fingerprint(directory), length, seed])[:16]

    def plan() -> int:
        pieces, summary = _pieces(directory, files, length)
        rows = _saved_epochs(cache, name, pieces, length, seed, samples, epochs)
        write_json(cache / f"packing-{name}.json", {**summary, **rows})
        return int(rows["epochs"])

    planned = on_rank_zero(plan) if dist.is_initialized() else plan()
    found = [_open(cache, name, epoch, length) for epoch in range(planned)]
    return WholeDocuments(files, found, end_of_document(directory), holds_pairs(directory))


def packing_summaries(cache: Path) -> list[dict[str, Any]]:
    """Return what was packed into rows, one entry a directory of tokens and row length."""
    return [json.loads(path.read_text()) for path in sorted(cache.glob("packing-*.json"))]


def _pieces(directory: Path, files: TokenFiles, length: int) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return what is packed, and counts of it; say how many conversations lose their ends."""
    summary = {"tokens": str(directory), "documents": len(files.lengths), "row_length": length}
    if files.loss is None:
        return cut_pieces(files.lengths, length), summary
    if holds_pairs(directory):
        pieces = pair_pieces(files.lengths, length)
        summary |= {"pairs": len(pieces), "left_out": len(files.lengths) // 2 - len(pieces)}
        return _not_empty(pieces, directory, length), summary
    pieces = truncated_pieces(files.lengths, length)
    long = np.flatnonzero(files.lengths > length + 1)  # a row's last label lies behind it
    silent = [p for p in long if not _is_learned(files.loss, pieces[p])]
    lost = int((files.lengths[long] - length - 1).sum(dtype=np.int64))
    summary |= {"truncated": len(long), "truncated_tokens": lost, "left_out": len(silent)}
    if len(long):
        print(
            f"{directory}: {len(long):,} of {len(pieces):,} conversations "
            f"({len(long) / len(pieces):.1%}) are longer than sequence_length {length} and lose "
            f"their ends ({lost:,} tokens); {len(silent):,} of them have no answer before that "
            "and are left out",
            file=sys.__stderr__,
        )
    return _not_empty(np.delete(pieces, silent), directory, length), summary


def _not_empty(pieces: NDArray[Any], directory: Path, length: int) -> NDArray[Any]:
    if not len(pieces):
        raise DataError(
            f"{directory}: nothing has an answer within sequence_length {length}; choose a larger "
            "one"
        )
    return pieces


def _is_learned(loss: NDArray[np.uint8], piece: Any) -> bool:
    start = int(piece["start"])
    return bool(loss[start + 1 : start + int(piece["length"]) + 1].any())


def _saved_epochs(
    cache: Path,
    name: str,
    pieces: NDArray[Any],
    length: int,
    seed: int,
    samples: int,
    epochs: int,
) -> dict[str, Any]:
    """Save so many epochs, or 0: until they hold `samples` rows; return their common figures."""
    cache.mkdir(parents=True, exist_ok=True)
    rows = positions = 0
    for epoch in itertools.count():
        if all(path.is_file() for path in _files(cache, name, epoch)):
            found = _open(cache, name, epoch, length)
        else:
            found = pack(pieces, length, seed, epoch)
            for path, values in zip(_files(cache, name, epoch), _arrays(found), strict=True):
                with atomic_file(path) as scratch, scratch.open("wb") as stream:
                    np.save(stream, values)
        rows, positions = rows + len(found), positions + len(found) * length
        if epoch + 1 == epochs or (not epochs and rows >= samples):
            break
    waste = 1 - (epoch + 1) * int(pieces["length"].sum(dtype=np.int64)) / positions
    return {"epochs": epoch + 1, "rows": rows, "waste": round(waste, 6)}


def _arrays(rows: Rows) -> Iterator[NDArray[Any]]:
    yield rows.pieces
    yield rows.bounds


def _files(cache: Path, name: str, epoch: int) -> list[Path]:
    return [cache / f"packing-{name}-{epoch}-{part}.npy" for part in ("pieces", "bounds")]


def _open(cache: Path, name: str, epoch: int, length: int) -> Rows:
    pieces, bounds = (np.load(path, mmap_mode="r") for path in _files(cache, name, epoch))
    return Rows(pieces, bounds, length)
