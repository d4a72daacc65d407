"""Run a command on several processes of this machine, one rank each.

The ranks are started directly: an agent such as torchrun would import torch in a process of its
own, outlive a killed parent, and bury a one-line error of a rank under its own traceback. Every
variable that torchrun sets and Megatron reads is set here too.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

_POLL_SECONDS = 0.05
_GRACE_SECONDS = 10.0
_PARENT_VARIABLE = "BIELIK_PARENT_PID"
#: Set in the script of a job that a scheduler runs.
JOB_VARIABLE = "BIELIK_JOB"
_PR_SET_PDEATHSIG = 1


def run_distributed(argv: Sequence[str], processes: int) -> int:
    """Run ``bielik *argv`` on `processes` ranks and return the first failing exit status, or 0.

    When one rank fails the others are stopped; SIGTERM and SIGINT are passed on to all of them.
    """
    assert processes >= 1
    port = free_port()
    command = [sys.executable, "-m", "nemo_bielik", *argv]
    ranks = [
        subprocess.Popen(command, env=_environment(rank, processes, port), start_new_session=True)
        for rank in range(processes)
    ]
    try:
        with _forwarded_signals(ranks):
            return _wait(ranks)
    finally:
        _stop(ranks)


def die_with_parent() -> None:
    """In a rank: end when the process that started it is gone (Linux), however that ended."""
    parent = os.environ.get(_PARENT_VARIABLE)
    if parent is not None:
        die_with(int(parent))


def die_with(parent: int, number: int = signal.SIGTERM) -> None:
    """End this process, by a signal, when the process `parent` that started it is gone (Linux)."""
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def rank_variables(rank: int, ranks: int, port: int) -> dict[str, str]:
    """Return what torchrun would set for one rank of a run on this machine."""
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "GROUP_RANK": 0,
        "GROUP_WORLD_SIZE": 1,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    return {name: str(value) for name, value in variables.items()}


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    # As torchrun does: several ranks on the same cores are faster with one thread each.
    threads = {"OMP_NUM_THREADS": "1"} if ranks > 1 else {}
    parent = {_PARENT_VARIABLE: str(os.getpid())}
    return {**threads, **os.environ, **rank_variables(rank, ranks, port), **parent}


def free_port() -> int:
    """Return a TCP port of this machine that nothing listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def _forwarded_signals(ranks: list["subprocess.Popen[bytes]"]) -> Iterator[None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        for rank in ranks:
            with suppress(ProcessLookupError):
                rank.send_signal(number)

    previous = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wait(ranks: list["subprocess.Popen[bytes]"]) -> int:
    running = list(ranks)
    while running:
        time.sleep(_POLL_SECONDS)
        for rank in list(running):
            status = rank.poll()
            if status is None:
                continue
            running.remove(rank)
            if status:
                return status if status > 0 else 128 - status
    return 0


def _stop(ranks: list["subprocess.Popen[bytes]"]) -> None:
    """Terminate what still runs, and kill what does not listen."""
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    deadline = time.monotonic() + _GRACE_SECONDS
    for rank in ranks:
        try:
            rank.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()
