"""Worker processes that stay warm: the engine takes seconds to import, a small stage not much more.

A lane runs one stage after another; a distributed stage takes as many lanes as it has ranks.
"""

import importlib
import io
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr
from multiprocessing import get_context
from typing import Any

from nemo_bielik.errors import BielikError
from nemo_bielik.launch.local import die_with, free_port, rank_variables

_ENDED_ABRUPTLY = (
    "a stage's process ended abruptly (killed, or out of memory); run the same command again to "
    "continue from what is done"
)


class Lanes:
    """A pool of stage runners; leaving the block ends them, a dead parent does too."""

    def __init__(self, count: int) -> None:
        context = get_context("spawn")
        numbers = context.Queue()
        for number in range(count):
            numbers.put(number)
        self.count = count
        self._pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_open_lane, initargs=(os.getpid(), numbers)
        )

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
        if kind is not None:
            for process in list((self._pool._processes or {}).values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def warm(self, module: str) -> None:
        """Have every lane import `module` while the caller does something else."""
        for _ in range(self.count):
            self._pool.submit(_import, module)

    def submit(self, target: str, config: Any) -> "Future[None]":
        """Run ``module:function`` on `config` in the next free lane."""
        return self._submit(target, config, {})

    def run(self, target: str, config: Any) -> None:
        """Run a stage on as many lanes as ``config.parallel`` asks for, and wait for it."""
        ranks = int(getattr(getattr(config, "parallel", None), "processes", 1))
        if ranks > self.count:
            raise BielikError(
                f"{target}: needs {ranks} processes, but {self.count} lanes are open; "
                "raise lanes or shrink parallel"
            )
        port = free_port()
        environments = [rank_variables(rank, ranks, port) for rank in range(ranks)]
        collect(
            [
                self._submit(target, config, environment if ranks > 1 else {})
                for environment in environments
            ]
        )

    def _submit(self, target: str, config: Any, environment: dict[str, str]) -> "Future[None]":
        try:
            return self._pool.submit(_run, target, config, environment)
        except BrokenProcessPool:  # a lane ended since its last stage
            raise BielikError(_ENDED_ABRUPTLY) from None


def collect(futures: "list[Future[None]]") -> None:
    """Wait for stages that run side by side; the first error is raised at once."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        try:
            future.result()
        except BrokenProcessPool:
            raise BielikError(_ENDED_ABRUPTLY) from None


def _open_lane(parent: int, numbers: Any) -> None:
    die_with(parent)
    os.environ["BIELIK_LANE"] = str(numbers.get())
    # of the process that opened the lanes, where torchrun started it: a lane is no rank of that
    for name in [*rank_variables(0, 1, 0), "TORCHELASTIC_USE_AGENT_STORE"]:
        os.environ.pop(name, None)
    # of libraries, and of the processes they start: a lane's terminal belongs to its stages
    warnings.filterwarnings("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    # small models run fastest, and steadiest, with one thread a process
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _import(module: str) -> None:
    with redirect_stderr(io.StringIO()):  # what libraries say while they load
        importlib.import_module(module)


def _run(target: str, config: Any, environment: dict[str, str]) -> None:
    from nemo_bielik.commands import load

    with _environment(environment):
        try:
            load(target)(config)
        except SystemExit as stop:  # the engine saved a checkpoint on SIGTERM: end for good
            os._exit(int(stop.code or 0))


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
