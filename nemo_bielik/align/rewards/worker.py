"""``python -m nemo_bielik.align.rewards.worker PARENT NAMES OWN``: rewards in another process.

It reads a JSON line ``{"reward", "text", "task"}`` and answers ``{"value"}`` or ``{"error"}``, one
after the other. What an answer makes it do is bounded by its memory here and, by `grading.Grader`,
in time. PARENT is the process that it ends with, NAMES are the rewards to get ready, OWN the user's
own (``module:function``); both by commas.
"""

import contextlib
import json
import math
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from nemo_bielik.align.rewards.catalog import Reward, known_rewards
from nemo_bielik.launch.local import die_with

#: Address space beyond what the imports take.
_MEMORY_BYTES = 4 * 2**30
READY = "ready"


def main(parent: str, names: str, own: str) -> None:
    """Serve until the other end closes."""
    die_with(int(parent), signal.SIGKILL)
    with _only_answers_on_stdout() as output:
        try:
            known = _prepared(names.split(","), list(filter(None, own.split(","))))
        except Exception as error:  # a user's module may raise anything
            _write(output, _error(error))
            return
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _MEMORY_BYTES, hard))
        _write(output, {READY: True})
        for line in sys.stdin:
            _write(output, _reply(known, json.loads(line)))


def _prepared(names: list[str], own: list[str]) -> dict[str, Reward]:
    known = known_rewards(own)
    for name in names:
        known[name].prepare()
    return known


def _address_space() -> int:
    """Return the bytes of address space that this process has by now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _error(error: Exception) -> dict[str, Any]:
    return {"error": type(error).__name__, "detail": str(error).partition("\n")[0][:200]}


def _reply(known: dict[str, Reward], request: dict[str, Any]) -> dict[str, Any]:
    try:
        value = float(known[request["reward"]].function(request["text"], request["task"]))
    except Exception as error:  # whatever a parser or a user's function comes to
        return _error(error)
    if not (math.isfinite(value) and 0 <= value <= 1):
        return {"error": "a value out of range", "detail": f"{value}; rewards lie between 0 and 1"}
    return {"value": value}


def _write(output: TextIO, value: dict[str, Any]) -> None:
    output.write(json.dumps(value) + "\n")
    output.flush()


def _only_answers_on_stdout() -> "contextlib.AbstractContextManager[TextIO]":
    """Send what libraries print to nowhere, so that answers alone reach the other end."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return output


if __name__ == "__main__":
    main(*sys.argv[1:])
