"""Teacher caches written by hand, without a teacher: each record says which token it is of."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bielik.distill.cache_format import (
    STAGE,
    Array,
    Fragments,
    RecordLayout,
    shard_name,
    write_shard,
)
from nemo_bielik.distill.cache_plan import Plan, pieces_of
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest

#: tokens, position ids and loss mask of a row each; the first document of both rows is the same
ROWS = (
    ([5, 6, 2, 7, 8], [0, 1, 2, 0, 1], [1, 1, 0, 1, 1]),
    ([9, 9, 9, 5, 6], [0, 1, 2, 0, 1], [0, 0, 0, 1, 1]),
    ([4, 3, 4, 3, 4], [0, 1, 2, 3, 4], [0, 1, 0, 1, 0]),
)
LAYOUT = RecordLayout(k=2, vocab_size=40, dtype="float32", temperatures=(1.0, 2.0))


def fragments(rows: Sequence[Any]) -> Fragments:
    """Return the fragments of rows laid end to end."""
    return Fragments.of(
        *(np.concatenate(field) for field in zip(*map(as_arrays, rows), strict=True))
    )


def as_arrays(row: Any) -> list[Array]:
    return [np.array(field) for field in row]


def record_of(token: int, position: int, layout: RecordLayout = LAYOUT) -> Array:
    """The record of a token: its ids tell the token and its position in the document."""
    record = np.zeros(1, layout.record)
    record["ids"][0, :2] = token, position
    record["log_probs"] = -token
    record["remainders"] = position
    return record


def records_of(rows: Sequence[Any], layout: RecordLayout = LAYOUT) -> Array:
    """The records of all tokens of rows that carry loss."""
    found = [
        record_of(token, position, layout)
        for tokens, positions, mask in rows
        for token, position, counts in zip(tokens, positions, mask, strict=True)
        if counts
    ]
    return np.concatenate(found)


def plan_of(rows: Sequence[Any], rows_per_shard: int) -> Plan:
    """Return the plan of rows that two ranks have looked through."""
    numbered = [(number, fragments([row])) for number, row in enumerate(rows)]
    return Plan.make(map(pieces_of, (numbered[:1], numbered[1:])), rows_per_shard)


def write(
    directory: Path,
    rows: Sequence[Any] = ROWS,
    layout: RecordLayout = LAYOUT,
    rows_per_shard: int = 1,
) -> Plan:
    """Write a finished cache of some rows and return its plan."""
    directory.mkdir()
    plan = plan_of(rows, rows_per_shard)
    for number in range(len(plan.shards)):
        pieces = plan.of_shard(number)
        cut = [[field[p["start"] : p["end"]] for field in rows[p["row"]]] for p in pieces]
        write_shard(directory / shard_name(number), records_of(cut, layout), pieces["positions"])
    plan.save_index(directory)
    results = {
        **asdict(layout),
        "sequences": 1_000,
        "validation_sequences": 8,
        "index_sha256": {path.name: file_sha256(path) for path in directory.glob("*.npy")},
    }
    config = {
        "train_data": "tokens/recovery",
        "validation_data": None,
        "sequence_length": 5,
        "seed": 3,
    }
    Manifest(stage=STAGE, config=config, results=results).save(directory)
    return plan
