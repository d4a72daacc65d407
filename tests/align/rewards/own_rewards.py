"""Rewards as a user would bring them, some of them bad ones."""

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Task = Mapping[str, Any]


def tenth(text: str, task: Task) -> float:
    """The same for every answer, and no binary fraction."""
    return 0.1


def length(text: str, task: Task) -> float:
    print("what a reward prints is no answer of its process")
    return min(len(text), 10) / 10


def noting(text: str, task: Task) -> float:
    """Write down what was answered."""
    with Path(task["notes"]).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps([task["prompt"], text]) + "\n")
    return 0.0


def raising(text: str, task: Task) -> float:
    raise KeyError("no such thing")


def endless(text: str, task: Task) -> float:
    if text == "good":
        return 1.0
    while True:
        time.sleep(0.01)


def dying(text: str, task: Task) -> float:
    os._exit(1)


def greedy(text: str, task: Task) -> float:
    return float(len(bytearray(2**40)))


def too_good(text: str, task: Task) -> float:
    return 1.5


def stopping(text: str, task: Task) -> float:
    """Right or wrong; where a file asks for it, the run that asks is told to stop."""
    flag = Path(task["flag"])
    if flag.exists():
        flag.unlink()
        os.kill(os.getppid(), signal.SIGTERM)
    return float(text == task["answer"])
