"""What a stage costs: its wall time and the memory that it adds to its process."""

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import write_json
from nemo_bielik.manifest import Manifest
from nemo_bielik.peak_memory import PeakMemory
from nemo_bielik.planner.parameters import is_linear
from nemo_bielik.tensors import tensor_rows

_INTERVAL_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """A stage to run in a lane, and the file that its cost goes to."""

    target: str
    config: Any
    record: Path

    @property
    def parallel(self) -> Any:
        """The stage's own layout."""
        return getattr(self.config, "parallel", None)


def run_measured(measured: Measured) -> None:
    """Run the stage and record its seconds and the bytes it added; what is done keeps its record.

    Every rank runs it; the first one records, its own memory alone.
    """
    from nemo_bielik.cli import load

    done = measured.config.output.exists()
    before = psutil.Process().memory_info().rss
    with PeakMemory(_INTERVAL_SECONDS) as memory, contextlib.redirect_stdout(io.StringIO()):
        load(measured.target)(measured.config)
    if os.environ.get("RANK", "0") != "0" or (done and measured.record.is_file()):
        return
    added = max(0, memory.peak_bytes - before)
    seconds = Manifest.load(measured.config.output).wall_seconds
    write_json(measured.record, {"seconds": seconds, "added_bytes": added})


def read_cost(record: Path) -> dict[str, float]:
    """Return what `run_measured` recorded."""
    value: dict[str, float] = json.loads(record.read_text(encoding="utf-8"))
    return value


def count_zeros(checkpoint: Checkpoint) -> int:
    """Return how many weights of the layers' projections are exactly zero."""
    return sum(int((checkpoint.read(name) == 0).sum()) for name in _projections(checkpoint))


def count_revived(pruned: Checkpoint, recovered: Checkpoint) -> int:
    """Return how many weights are zero in `pruned` and not any more in `recovered`."""
    return sum(
        int(((pruned.read(name) == 0) & (recovered.read(name) != 0)).sum())
        for name in _projections(pruned)
    )


def _projections(checkpoint: Checkpoint) -> list[str]:
    return [row.name for row in tensor_rows(checkpoint.arch) if is_linear(row)]
