"""NeMo-Run's experiment: quiet, found again by its name, and stopped by a job that failed."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nemo_run as run
from torchx.specs.api import AppState

from nemo_bielik.errors import BielikError

_FINISHED_WELL = AppState.SUCCEEDED


class JobFailed(BielikError):
    """A job that ended without success while the launcher waited for it."""


class NotSubmitted(BielikError):
    """A job that the place where it should run did not take."""


class LaunchExperiment(run.Experiment):  # type: ignore[misc]
    """An experiment that may hold our Lepton executor and that ends at the first failure.

    Where a scheduler has no dependencies (all but Slurm) NeMo-Run waits for one job and starts the
    next however that ended.
    """

    def __init__(self, title: str, **settings: Any) -> None:
        quiet = {"clean_mode": True, "enable_goodbye_message": False, "skip_status_at_exit": True}
        super().__init__(title, **(quiet | {"log_level": "WARN"} | settings))

    def allow(self, kind: type) -> None:
        """Let executors of class `kind`, a child of NeMo-Run's own, be used as those are."""
        for name in ("_PARALLEL_SUPPORTED_EXECUTORS", "_DETACH_SUPPORTED_EXECUTORS"):
            known = getattr(self, name)
            if kind not in known and any(issubclass(kind, parent) for parent in known):
                setattr(self, name, (*known, kind))

    def run(self, **settings: Any) -> None:
        """Submit the jobs; raise `NotSubmitted` with the reason if one is refused."""
        try:
            super().run(**settings)
        except BaseException as error:
            self._keep_what_was_submitted()
            if isinstance(error, BielikError) or not isinstance(error, Exception):
                raise
            raise NotSubmitted(self._refusal(error)) from error

    def _keep_what_was_submitted(self) -> None:
        """Write the submitted jobs down, as NeMo-Run does if all are; without any, leave nothing.

        Otherwise they would run, or wait in the queue, where nobody finds them again.
        """
        if any(job.launched for job in self.jobs):
            self._save_jobs()
        else:
            self.leave_nothing()

    def leave_nothing(self) -> None:
        """Remove the files of this experiment."""
        directory = Path(self._exp_dir)
        shutil.rmtree(directory, ignore_errors=True)
        with suppress(OSError):  # of others, or not there
            directory.parent.rmdir()
            directory.parents[1].rmdir()

    def _refusal(self, error: Exception) -> str:
        submitted = [job.id for job in self.jobs if job.launched]
        refused = next((job.id for job in self.jobs if not job.launched), self._title)
        told = getattr(getattr(error, "result", None), "stderr", "") or str(error)
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        message = f"{refused} was not submitted: {reason}"
        if submitted:
            was, them = ("was", "it") if len(submitted) == 1 else ("were", "them")
            message += (
                f"; {', '.join(submitted)} {was}: `bielik launch cancel {self._id}` stops {them}"
            )
        return message

    def _wait_for_jobs(self, jobs: list[Any]) -> None:
        # NeMo-Run writes them down when all have ended well: until then nobody could look at one
        self._save_jobs()
        super()._wait_for_jobs(jobs)
        self._save_jobs()
        for job in jobs:
            if job.state != _FINISHED_WELL:
                raise JobFailed(
                    f"{job.id} ended as {job.state.name.lower()}; its output lies in "
                    f"{job.executor.job_dir}, `bielik launch logs {self._id}` shows it"
                )


@contextmanager
def without_input() -> Iterator[None]:
    """Keep NeMo-Run's shell commands from reading what is piped into this process."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


def use_home(directory: Path) -> None:
    """Have NeMo-Run keep its experiments under `directory` and talk on stderr."""
    from nemo_run.config import set_nemorun_home
    from nemo_run.core.frontend.console.api import CONSOLE

    CONSOLE.stderr = True  # what is printed on stdout are results
    os.environ["NEMORUN_HOME"] = str(directory)
    set_nemorun_home(str(directory))


def open_experiment(directory: Path) -> Any:
    """Return the experiment kept in ``HOME/experiments/TITLE/ID``, for looking at its jobs."""
    use_home(directory.parents[2])
    return LaunchExperiment._from_config(str(directory))
