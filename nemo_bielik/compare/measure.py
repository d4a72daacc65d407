"""What a stage costs: its wall time and the memory that it adds to its process."""

import contextlib
import importlib
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
from nemo_bielik.pruning.sparsity import projections


@dataclass(frozen=True)
class Measured:
    """A stage to run in a fresh lane, and the file that its cost goes to.

    Attributes:
        needs: module that the stage would import; its memory is not counted.
    """

    target: str
    config: Any
    record: Path
    needs: str = "torch"

    def is_done(self) -> bool:
        """Return whether an earlier run left output and record.

        Raises `StorageError` if it ran with other settings: a stage that is done says so at once.
        """
        found = self.record.is_file() and self.config.output.exists()
        if found:
            self.run()
        return found

    def run(self) -> None:
        """Run the stage without what it prints."""
        from nemo_bielik.commands import load

        with contextlib.redirect_stdout(io.StringIO()):
            load(self.target)(self.config)

    @property
    def parallel(self) -> Any:
        """The stage's own layout."""
        return getattr(self.config, "parallel", None)


def run_measured(measured: Measured) -> None:
    """Run the stage and record its seconds and the bytes it added; what is done keeps its record.

    The process must be a fresh one: memory that an earlier stage left to the allocator would hide
    what this one needs. Every rank runs it; the first one records, its own memory alone.
    """
    done = measured.config.output.exists()
    with contextlib.redirect_stderr(io.StringIO()):  # what libraries say while they load
        importlib.import_module(measured.needs)
    before = psutil.Process().memory_info().rss
    measured.run()
    if os.environ.get("RANK", "0") != "0" or (done and measured.record.is_file()):
        return
    added = max(0, _peak_bytes() - before)
    seconds = Manifest.load(measured.config.output).wall_seconds
    values = {"seconds": seconds, "added_bytes": added + _device_bytes()}
    write_json(measured.record, values)


def _peak_bytes() -> int:
    """Return the most memory this process ever held; `getrusage` would count its parent's too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _device_bytes() -> int:
    import torch

    return int(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0


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
    return [row.name for row in projections(checkpoint.arch)]
