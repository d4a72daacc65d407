"""Tiny stages that lanes import; they tell what they saw through files."""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "BIELIK_LANE")


@dataclass(kw_only=True)
class Task:
    """What a stage gets: a folder, a name, and on how many ranks it runs."""

    folder: Path
    name: str = "task"
    parallel: ParallelConfig = field(default_factory=ParallelConfig)


def note(task: Task) -> None:
    """Write the process and its variables, then wait until every rank of the task has."""
    seen = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    scratch = task.folder / f"{os.getpid()}.scratch"
    scratch.write_text(json.dumps({"pid": os.getpid(), **seen}))
    scratch.rename(task.folder / f"{task.name}-{seen.get('RANK', 0)}.json")
    deadline = time.monotonic() + 60
    while len(list(task.folder.glob(f"{task.name}-*.json"))) < task.parallel.processes:
        if time.monotonic() > deadline:
            raise TimeoutError("the other ranks never came")
        time.sleep(0.01)


def refuse(task: Task) -> None:
    """Fail as a stage does over a bad setting."""
    raise ConfigError(f"{task.name} is wrong; it must be right")


def fail_on_rank_1(task: Task) -> None:
    """Fail on one rank only, while the other waits for it."""
    if os.environ["RANK"] == "1":
        refuse(task)
    time.sleep(600)


def blunder(task: Task) -> None:
    """Fail by a mistake of ours."""
    raise ZeroDivisionError(task.name)


def be_killed(_: Task) -> None:
    """End as when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: Task) -> None:
    """End as the engine does after it saved a checkpoint on SIGTERM."""
    sys.exit(0)


def sleep(task: Task) -> None:
    """Say who runs, and never come back."""
    note(task)
    time.sleep(600)
