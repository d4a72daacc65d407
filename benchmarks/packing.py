"""How full rows of whole documents are, how fast they are planned, and what that saves a training.

Usage: ``python benchmarks/packing.py [--json] [--documents N] [--row-length N] [--no-speed]
[--batch 32] [--rounds 2]``. Lengths are log-normal with median 256 and sigma 1, cut at 4,096
tokens. Peers in the same run: next fit (documents in their order, each into the row at hand or a
new one), which is concatenating without cutting, and one document a row, padded to the longest.

``speedup`` is that of fine-tuning (`Supervised`: forward and backward pass of the engine, fp32, a
random layer 768 wide) in tokens a second, padding not counted: documents packed into rows of 4,096
against batches of `--batch` documents padded to the longest of each. All rows of one shape cost the
same, so two packed rows are timed, and two rows of each of six padded batches, which stand at
even quantiles of a thousand by their longest document. In turns, after a warm-up; the best round
of each counts.
On a CPU attention reads the whole row behind a mask, which costs packed rows more than batches; on
a GPU it ends with the document.

The exit status is 1 if 3 % or more of the positions are padding, or the speedup is below 3.
"""

import argparse
import contextlib
import json
import resource
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from align_step import build, make_documents, make_row, step_of, write_model
from numpy.typing import NDArray

from nemo_bielik.data.packing import pack, truncated_pieces

MEDIAN, SIGMA, CAP = 256, 1.0, 4096
WASTE_TARGET, SPEEDUP_TARGET = 0.03, 3.0
#: Rows of a padded batch that are timed, in one micro-batch.
AT_ONCE = 2
#: Padded batches that are timed.
QUANTILES = 6
SIZES: dict[str, Any] = {
    "vocab_size": 2048,
    "num_layers": 1,
    "hidden_size": 768,
    "ffn_hidden_size": 3072,
    "num_attention_heads": 2,
    "num_query_groups": 2,
    "head_dim": 384,
}


def lengths_of(documents: int) -> NDArray[np.int32]:
    """Return the lengths of a long-tailed corpus, [documents]."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEDIAN), SIGMA, documents)
    return np.clip(drawn, 1, CAP).astype(np.int32)


def next_fit(lengths: NDArray[np.int32], row_length: int) -> int:
    """Return the rows that documents fill one after the other."""
    rows, room = 1, row_length
    for length in lengths.tolist():
        if length > room:
            rows, room = rows + 1, row_length
        room -= length
    return rows


def measure(documents: int, row_length: int) -> dict[str, Any]:
    """Pack one epoch and return its figures."""
    lengths = lengths_of(documents)
    started, started_cpu = time.perf_counter(), time.process_time()
    rows = pack(truncated_pieces(lengths, row_length), row_length, seed=1, epoch=0)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    tokens = int(np.minimum(lengths, row_length).sum(dtype=np.int64))
    padded = 1 - tokens / (documents * min(CAP, row_length))
    return {
        "documents": documents,
        "row_length": row_length,
        "rows": len(rows),
        "waste_fraction": round(1 - tokens / (len(rows) * row_length), 6),
        "waste_fraction_next_fit": round(
            1 - tokens / (next_fit(lengths, row_length) * row_length), 6
        ),
        "waste_fraction_one_document_a_row": round(padded, 6),
        "documents_per_second": round(documents / seconds),
        "documents_per_cpu_second": round(documents / cpu_seconds),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "targets": {"waste_fraction": WASTE_TARGET, "speedup": SPEEDUP_TARGET},
    }


def packed_rows(documents: list[Any], count: int) -> list[dict[str, Any]]:
    """Return some of the rows of 4,096 tokens that documents are packed into."""
    lengths = np.array([len(tokens) for tokens, _ in documents], np.int32)
    rows = pack(truncated_pieces(lengths, CAP), CAP, seed=1, epoch=0)
    return [
        make_row([documents[n] for n in rows[row]["document"].tolist()], CAP)
        for row in range(count)
    ]


def typical_batches(lengths: NDArray[np.int32], batch: int) -> list[NDArray[np.int32]]:
    """Return batches at even quantiles of how long their longest document is."""
    batches = lengths[: len(lengths) // batch * batch].reshape(-1, batch)
    order = np.argsort(batches.max(axis=1), kind="stable")
    places = (np.arange(QUANTILES) + 0.5) / QUANTILES * len(order)
    return [batches[order[int(place)]] for place in places]


def padded_rows(lengths: NDArray[np.int32]) -> dict[str, Any]:
    """Return the first `AT_ONCE` documents of a batch, padded to its longest."""
    import torch

    documents = make_documents(lengths[:AT_ONCE].tolist(), SIZES["vocab_size"])
    rows = [make_row([document], int(lengths.max())) for document in documents]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def measure_speed(batch: int, rounds: int) -> dict[str, Any]:
    """Return tokens a second of both ways, and their ratio."""
    from nemo_bielik.megatron.model import distributed_session
    from nemo_bielik.megatron.supervised import Supervised

    warnings.simplefilter("ignore")
    lengths = lengths_of(1000 * batch)
    batches = typical_batches(lengths, batch)
    packed = packed_rows(make_documents(lengths[:2000].tolist(), SIZES["vocab_size"]), 2)
    ways = {"packed": packed, "padded": [padded_rows(found) for found in batches]}
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
        distributed_session(),
    ):
        objective = Supervised()
        model = build(objective, write_model(Path(folder) / "model", SIZES), CAP)
        steps = {name: step_of(objective, model, rows) for name, rows in ways.items()}
        step_of(objective, model, packed[:1])()  # a warm-up
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, step in steps.items():
                started = time.perf_counter()
                step()
                seconds[name].append(time.perf_counter() - started)
    held = sum(int((row["tokens"] > 0).sum()) for row in packed)
    rates = {
        "packed": held / min(seconds["packed"]),
        "padded": sum(int(b.sum()) for b in batches) / (min(seconds["padded"]) * batch / AT_ONCE),
    }
    padded_share = sum(int(b.max()) * batch for b in batches) / sum(int(b.sum()) for b in batches)
    return {
        "speedup": round(rates["packed"] / rates["padded"], 3),
        "sft_tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "padded_positions_a_token": round(padded_share, 3),
        "batch": batch,
    }


def main() -> int:
    """Measure and print lines or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--documents", type=int, default=1_000_000, help="(default: a million)")
    parser.add_argument("--row-length", type=int, default=32_768, help="tokens (default: 32768)")
    parser.add_argument("--no-speed", action="store_true", help="leave the training out")
    parser.add_argument("--batch", type=int, default=32, help="documents a padded batch")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds (default: 2)")
    options = parser.parse_args()
    found = measure(options.documents, options.row_length)
    if not options.no_speed:
        found |= measure_speed(options.batch, options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:<36}{value}")
    fast = found.get("speedup", SPEEDUP_TARGET) >= SPEEDUP_TARGET
    return 0 if found["waste_fraction"] < WASTE_TARGET and fast else 1


if __name__ == "__main__":
    sys.exit(main())
