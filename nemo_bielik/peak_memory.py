"""The most memory that a command and everything it started held at once."""

import threading
from contextlib import suppress
from typing import Self

import psutil

_INTERVAL_SECONDS = 0.5


class PeakMemory:
    """Sample the resident memory of this process and its descendants while the block runs.

    Pages that processes share count once for each, so the figure is an upper bound.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while True:
            total = 0
            for process in [me, *me.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self.peak_bytes = max(self.peak_bytes, total)
            if self._stop.wait(_INTERVAL_SECONDS):
                return
