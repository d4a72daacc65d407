"""How full rows of whole documents are, and how fast they are planned.

Usage: ``python benchmarks/packing.py [--json] [--documents N] [--row-length N]``. Lengths are
log-normal with median 256 and sigma 1, cut at 4,096 tokens. Peers in the same run: next
fit (documents in their order, each into the row at hand or a new one), which is concatenating
without cutting, and one document a row, padded to the longest. The exit status is
1 if 3 % or more of the positions are padding.
"""

import argparse
import json
import resource
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.packing import pack, truncated_pieces

MEDIAN, SIGMA, CAP = 256, 1.0, 4096
WASTE_TARGET = 0.03


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
        "targets": {"waste_fraction": WASTE_TARGET},
    }


def main() -> int:
    """Measure and print lines or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--documents", type=int, default=1_000_000, help="(default: a million)")
    parser.add_argument("--row-length", type=int, default=32_768, help="tokens (default: 32768)")
    options = parser.parse_args()
    found = measure(options.documents, options.row_length)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, value in found.items():
            print(f"{name:<36}{value}")
    return 0 if found["waste_fraction"] < WASTE_TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
