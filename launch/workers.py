"""Who runs the stages of a command that decides as it goes: lanes of this machine, or jobs."""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nemo_bielik.errors import DataError
from nemo_bielik.files import write_json
from nemo_bielik.launch.jobs import job_states
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.launch.site import Site
from nemo_bielik.launch.submit import submit
from nemo_bielik.launch.tasks import Task

#: How often a scheduler is asked about a job.
_LOOK_SECONDS = 10.0
#: What Slurm, Lepton and NeMo-Run call a job that will do something yet.
_UNDER_WAY = frozenset(
    ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED")
    + ("RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED", "PREEMPTED")
    + ("STARTING", "RESTARTING", "QUEUEING", "AWAITING", "PENDINGRETRY", "STOPPING")
    + ("UNSUBMITTED", "SUBMITTED")
)
#: The words for a good end; UNKNOWN: the scheduler has forgotten the job, its output tells.
_ENDED_WELL = frozenset(("COMPLETED", "SUCCEEDED", "UNKNOWN"))


class Workers(Protocol):
    """Where stages run."""

    def start(self, command: str, config: Any, label: str) -> Callable[[], None]:
        """Begin a stage; the function that it returns waits for the end, and raises if it failed.

        Stages of one process that were started run side by side where there is room.
        """


@dataclass(frozen=True)
class LaneWorkers:
    """Lanes of this machine; `targets` says which ``module:function`` a command is."""

    lanes: Lanes
    targets: Mapping[str, str]

    def start(self, command: str, config: Any, label: str) -> Callable[[], None]:
        """Run it in the next free lane; one of several ranks takes them all, when waited for."""
        ranks = getattr(getattr(config, "parallel", None), "processes", 1)
        if ranks > 1:
            return partial(self.lanes.run, self.targets[command], config)
        return partial(collect, [self.lanes.submit(self.targets[command], config)])


@dataclass(frozen=True)
class JobWorkers:
    """A job of a site for every stage, each an experiment of its own.

    `folder` remembers them: who starts a stage again finds the job that is under way. Jobs go on
    when this process ends.
    """

    site: Site
    folder: Path

    def start(self, command: str, config: Any, label: str) -> Callable[[], None]:
        """Submit it, unless its job is queued or running."""
        note = self.folder / f"{label}.json"
        if note.is_file():
            directory = Path(json.loads(note.read_text(encoding="utf-8"))["experiment"])
            if directory.is_dir() and _state(directory) in _UNDER_WAY:
                return partial(self._wait, label, directory)
        title = re.sub(r"[^A-Za-z0-9]+", "-", label)[-40:].strip("-")
        done = submit([Task(command, config, name=title)], self.site, title)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(note, {"experiment": str(done.directory), "jobs": done.jobs})
        return partial(self._wait, label, done.directory)

    def _wait(self, label: str, directory: Path) -> None:
        while (state := _state(directory)) in _UNDER_WAY:
            time.sleep(_LOOK_SECONDS)
        if state not in _ENDED_WELL:
            raise DataError(
                f"{label}: its job ended as {state.lower()}; `bielik launch logs {directory.name}` "
                "shows why, the same command takes it up again"
            )


def _state(directory: Path) -> str:
    """Return the state of a job; of an array, whose jobs continue one run, that of the run."""
    (state,) = job_states(directory).values()
    states = state.split(", ")
    told = (one for known in (_UNDER_WAY, _ENDED_WELL) for one in states if one in known)
    return next(told, state)
