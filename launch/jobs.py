"""``bielik launch status | logs | cancel``: jobs found again in NeMo-Run's experiment directories.

NeMo-Run asks Slurm by ``sacct`` alone, which a cluster without an accounting database refuses, and
reads Lepton's logs only while a job runs; both are asked directly here.
"""

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.errors import ConfigError, DataError, nearest
from nemo_bielik.launch.site_file import USER_FILE, load_sites, nemo_run_home

_SITE_HELP = f"site file; default: ./bielik_site.toml or {USER_FILE}"


@dataclass(kw_only=True)
class StatusConfig:
    """Jobs of an experiment, or the experiments there are."""

    name: str = field(
        default="",
        metadata={
            "help": "experiment, by title (its latest) or id; none: list",
            "positional": True,
        },
    )
    site: Path | None = field(default=None, metadata={"help": _SITE_HELP})


@dataclass(kw_only=True)
class LogsConfig:
    """What a job of an experiment has printed, over all its starts."""

    name: str = field(metadata={"help": "experiment, by title or id", "positional": True})
    job: str = field(default="", metadata={"help": "job of it; none: all"})
    site: Path | None = field(default=None, metadata={"help": _SITE_HELP})


@dataclass(kw_only=True)
class CancelConfig:
    """Stop the jobs of an experiment; on Slurm and Lepton they get time to save."""

    name: str = field(metadata={"help": "experiment, by title or id", "positional": True})
    job: str = field(default="", metadata={"help": "job of it; none: all"})
    site: Path | None = field(default=None, metadata={"help": _SITE_HELP})


def print_status(config: StatusConfig) -> None:
    """Print one line a job: name, state, the scheduler's id, where its files are."""
    if not config.name:
        found = sorted(place.name for place in _experiments(config.site))
        print("\n".join(found) or "no experiment yet; `bielik STAGE … --executor SITE` makes one")
        return
    for job, backend in _jobs(config.name, "", config.site):
        if backend is None:
            print(f"{job.id}  NOT SUBMITTED")
        else:
            print(f"{job.id}  {backend.state()}  {backend.job_id}  {backend.place}")


def print_logs(config: LogsConfig) -> None:
    """Print what the jobs have printed, the earliest start first; of several, under their names."""
    jobs = list(_jobs(config.name, config.job, config.site))
    for job, backend in jobs:
        if len(jobs) > 1:
            print(f"==> {job.id} <==")
        if backend is not None:
            print(backend.logs().rstrip("\n"))


def cancel(config: CancelConfig) -> None:
    """Stop the jobs, the last of a chain first, and say which."""
    for job, backend in reversed(list(_jobs(config.name, config.job, config.site))):
        if backend is None:
            continue  # and will never be: the launcher stops at the one before
        backend.cancel()
        print(f"{job.id}: asked to stop ({backend.job_id})")


class _Backend:
    """A job of the kinds that NeMo-Run itself can be asked about."""

    def __init__(self, experiment: Any, job: Any) -> None:
        self.experiment, self.job = experiment, job
        self.job_id = job.handle.partition("://")[2].split("/")[1] if job.handle else ""
        self.place = job.executor.job_dir

    def state(self) -> str:
        """How the job is, in the scheduler's word."""
        return str(self.job.status(runner=self.experiment._runner)).rpartition(".")[2].upper()

    def logs(self) -> str:
        """Everything that the job has printed."""
        found = sorted(Path(self.place).rglob("combined.log"), key=os.path.getmtime)
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in found)

    def cancel(self) -> None:
        """Stop the job."""
        self.job.cancel(runner=self.experiment._runner)


class _Slurm(_Backend):
    def __init__(self, experiment: Any, job: Any) -> None:
        super().__init__(experiment, job)
        self.tunnel = job.executor.tunnel
        self.place = os.path.join(self.tunnel.job_dir, Path(self.place).name)

    def state(self) -> str:
        number = shlex.quote(self.job_id)
        queue = self._run(f"squeue --noheader --states=all --format=%T --jobs={number}")
        found = queue or self._run(f"sacct --noheader -X --parsable2 --format=State -j {number}")
        # an array's jobs have a line each
        return ", ".join(sorted(set(found.split("\n")))) if found else "UNKNOWN"

    def logs(self) -> str:
        # in the order of their writing: sbatch's own, then the ranks' of every start, of which each
        # job of an array has its own number in the name
        listed = self._run(f"ls -1tr {shlex.quote(self.place)}/*.out")
        return "\n".join(self._run(f"cat {shlex.quote(path)}") for path in listed.splitlines())

    def cancel(self) -> None:
        self._run(f"scancel {shlex.quote(self.job_id)}")

    def _run(self, command: str) -> str:
        # what is piped into this process is not for the command
        return str(self.tunnel.run(command, warn=True, in_stream=False).stdout).strip()


class _Lepton(_Backend):
    def __init__(self, experiment: Any, job: Any) -> None:
        super().__init__(experiment, job)
        # NeMo-Run's handle is EXPERIMENT___ROLE___JOB
        self.job_id = self.job_id.split("___")[-1]
        # of the workspace's storage; NeMo-Run forgets it
        home = Path(experiment._exp_dir).parents[2]
        inside = Path(self.place).relative_to(home)
        self.place = os.path.join(job.executor.nemo_run_dir, inside)

    def state(self) -> str:
        return str(self.job.executor.status(self.job_id).value).upper()

    def logs(self) -> str:
        from leptonai.api.v2.client import APIClient

        client = APIClient()
        replicas = sorted(
            (replica.metadata.id_ for replica in client.job.get_replicas(self.job_id)),
            key=lambda name: [int(part) for part in re.findall(r"\d+", name)],
        )
        if not replicas:
            return ""
        return "".join(client.job.get_log(self.job_id, replicas[0], timeout=30))

    def cancel(self) -> None:
        self.job.executor.cancel(self.job_id)


def job_states(directory: Path) -> dict[str, str]:
    """Return the state of every job of the experiment in `directory`, in the scheduler's words."""
    return {
        job.id: backend.state() if backend else "NOT SUBMITTED"
        for job, backend in _backends(directory)
    }


def _jobs(name: str, job: str, site: Path | None) -> Iterator[tuple[Any, _Backend | None]]:
    """Yield the jobs of an experiment with what can be asked about each; None: not submitted."""
    found = list(_backends(_find(name, site)))
    known = [one.id for one, _ in found]
    if job and job not in known:
        raise ConfigError(f"{name} has no job {job!r}{nearest(job, known)}; it has {known}")
    yield from (pair for pair in found if job in ("", pair[0].id))


def _backends(directory: Path) -> Iterator[tuple[Any, _Backend | None]]:
    from nemo_run import LeptonExecutor, SlurmExecutor

    from nemo_bielik.launch.experiment import open_experiment

    try:
        experiment = open_experiment(directory)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise DataError(f"{directory}: NeMo-Run cannot read this experiment ({reason})") from error
    kinds = {SlurmExecutor: _Slurm, LeptonExecutor: _Lepton}
    for found in experiment.jobs:
        kind = next(
            (made for kind, made in kinds.items() if isinstance(found.executor, kind)), _Backend
        )
        yield found, kind(experiment, found) if found.handle else None


def _find(name: str, site: Path | None) -> Path:
    known = list(_experiments(site))
    matches = [place for place in known if name in (place.name, place.parent.name)]
    if not matches:
        hint = nearest(name, {place.parent.name for place in known})
        raise ConfigError(
            f"no experiment is called {name!r}{hint}; `bielik launch status` lists them"
        )
    return max(matches, key=lambda place: place.name.rpartition("_")[2])


def _experiments(site: Path | None) -> Iterator[Path]:
    """Yield ``HOME/experiments/TITLE/ID`` of the user's home and of every site."""
    homes = {nemo_run_home(found) for found in load_sites(site).values()}
    homes.add(Path(os.environ.get("NEMORUN_HOME", "~/.nemo_run")).expanduser().absolute())
    for home in sorted(homes):
        yield from sorted(place.parent for place in home.glob("experiments/*/*/_TASKS"))
