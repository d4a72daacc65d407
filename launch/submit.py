"""Stages as the jobs of one experiment: checked here, shown in a dry run, submitted to a site.

From Python: ``submit(pipeline_jobs(config), site, "mine")``, or tasks of one's own:
``submit([Task("score", …), Task("prune", …, after=("score",))], site, "exp-010")``.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nemo_bielik.commands import Command, load
from nemo_bielik.errors import ConfigError
from nemo_bielik.known_layouts import check_known_layouts
from nemo_bielik.launch.lepton_site import LeptonSite
from nemo_bielik.launch.site import LocalSite, NemoRunSite, Site
from nemo_bielik.launch.site_file import find_site, nemo_run_home
from nemo_bielik.launch.slurm_site import SlurmSite
from nemo_bielik.launch.tasks import Task, with_absolute_paths
from nemo_bielik.launch.words import LaunchWords
from nemo_bielik.planner.table import align

_TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,39}")


@dataclass(frozen=True)
class Submission:
    """What was submitted: where NeMo-Run keeps it, and the scheduler's id of each job."""

    id: str
    directory: Path
    jobs: dict[str, str]


def submit_words(command: Command, config: Any, words: LaunchWords, dry_run: bool) -> int:
    """Submit a command as its line asks and say how to find it again; return a status."""
    site = find_site(words.executor, words.site, words.site_changes)
    tasks = load(command.jobs)(config) if command.jobs else [Task(command.name, config)]
    title = words.job_name or _title(command.name, config)
    if dry_run:
        if len(tasks) > 1:
            print(f"\n# {title}: {len(tasks)} jobs\n{job_table(tasks, site, title)}")
        for name, text in preview(tasks, site, title).items():
            print(f"\n# {name}\n{text.rstrip()}")
        return 0
    done = submit(tasks, site, title)
    for name, job in done.jobs.items():
        print(f"{name}: {job} ({done.directory})")
    if not isinstance(site, LocalSite):
        print(f"bielik launch status {done.id}   # or: logs, cancel")
    return 0


def submit(tasks: Sequence[Task], site: Site, title: str) -> Submission:
    """Submit `tasks` to `site` as one experiment and return where to find them.

    Slurm holds jobs back until those they come `after` ended well, and the call returns at once;
    elsewhere it waits for each. A local experiment is waited for, with its output shown.

    Raises `ConfigError` for settings that cannot run there, before anything is submitted,
    `NotSubmitted` if a job is refused there, and `JobFailed` if one that was waited for failed.
    """
    tasks = _checked(tasks, site, title)
    local = isinstance(site, LocalSite)
    with _experiment(tasks, site, title) as experiment:
        experiment.run(detach=not local, tail_logs=local)
    jobs = {job.id: _scheduler_id(job.handle) for job in experiment.jobs}
    return Submission(experiment._id, Path(experiment._exp_dir), jobs)


def preview(tasks: Sequence[Task], site: Site, title: str) -> dict[str, str]:
    """Return, by file name, the scripts that `submit` would submit; nothing is submitted.

    NeMo-Run writes the files of the experiment and they are removed again.
    """
    tasks = _checked(tasks, site, title)
    with TemporaryDirectory(prefix="bielik-") as folder:
        # a site's own directory may not be on this machine; of the other kinds, NeMo-Run takes a
        # job's place from where its own home is
        own = isinstance(site, (LocalSite, SlurmSite))
        with _experiment(tasks, site, title, **{"base_dir": folder} if own else {}) as experiment:
            try:
                experiment.dryrun(log=False, delete_exp_dir=False)
                scripts = dict(_scripts(experiment, site, Path(experiment._exp_dir)))
            finally:
                experiment.leave_nothing()
    home = str(nemo_run_home(site))
    return {name: text.replace(folder, home) for name, text in scripts.items()}


def job_table(tasks: Sequence[Task], site: Site, title: str) -> str:
    """Return a line a job: its size, what must end well before it starts, what it writes."""
    rows = []
    for task in _checked(tasks, site, title):
        nodes, per_node = site.of(task.stage).slots(task.ranks)
        size = f"{nodes} × {per_node}"
        written = str(getattr(task.config, "output", ""))
        rows.append([task.label, size, ", ".join(task.after) or "-", written])
    return align(["job", "nodes × ranks", "after", "writes"], rows)


def _checked(tasks: Sequence[Task], site: Site, title: str) -> list[Task]:
    if not _TITLE.fullmatch(title):
        raise ConfigError(
            f"the job's name is {title!r}; it must be up to 40 letters, digits and hyphens"
        )
    labels = [task.label for task in tasks]
    for number, task in enumerate(tasks):
        if task.label in labels[:number]:
            raise ConfigError(f"two jobs are called {task.label!r}; give one another name")
        for before in task.after:
            if before not in labels[:number]:
                raise ConfigError(f"{task.label} comes after {before!r}, which is no job before it")
    if isinstance(site, LocalSite):  # side by side they would fight for this machine's devices
        tasks = _one_after_another(tasks)
    else:
        for task in tasks:
            _require_one_rank_within(task)
    check_known_layouts([task.config for task in tasks])
    here = isinstance(site, LocalSite) or (isinstance(site, SlurmSite) and site.ssh is None)
    root = site.root or (Path.cwd() if here else None)
    return [replace(task, config=with_absolute_paths(task.config, root)) for task in tasks]


def _require_one_rank_within(task: Task) -> None:
    """Refuse a job whose own stages have several ranks: it is given the devices of one."""
    run = getattr(task.config, "recovery", None)
    ranks = run.parallel.processes if run is not None else 1
    if ranks > 1:
        way = "choose a recovery.parallel of one rank"
        if hasattr(task.config, "jobs_on"):
            way = "give jobs_on=SITE instead of --executor: every stage is then a job of its own"
        raise ConfigError(f"{task.label}: its stages have {ranks} ranks, its job has one; {way}")


def _one_after_another(tasks: Sequence[Task]) -> list[Task]:
    before = [(), *((task.label,) for task in tasks)]
    return [replace(task, after=after) for task, after in zip(tasks, before, strict=False)]


def _warn(tasks: Sequence[Task], site: Site) -> None:
    """Say what is legal but will be regretted."""
    for task in tasks:
        loses = getattr(task.config, "save_interval", 1) == 0
        if loses and isinstance(site, (SlurmSite, LeptonSite)):
            print(
                f"{task.label}: save_interval is 0, so a job that is stopped starts from its "
                "beginning",
                file=sys.stderr,
            )


@contextmanager
def _experiment(tasks: Sequence[Task], site: Site, title: str, **settings: Any) -> Iterator[Any]:
    """Open a NeMo-Run experiment, of further `settings`, with a job for each of `tasks`."""
    from nemo_bielik.launch.experiment import LaunchExperiment, use_home, without_input

    _warn(tasks, site)
    use_home(nemo_run_home(site))
    import nemo_run as run

    from nemo_bielik.launch.executors import build

    with without_input(), LaunchExperiment(title, **settings) as experiment:
        for task in tasks:
            executor, text = build(site, task, title)
            experiment.allow(type(executor))
            job = run.Script(inline=text)
            experiment.add(job, executor, name=task.label, dependencies=list(task.after))
        yield experiment


def _scripts(experiment: Any, site: Site, directory: Path) -> Iterator[tuple[str, str]]:
    from nemo_bielik.launch.others import request_text

    for job in experiment.jobs:
        request = job._dryrun_info.request
        script = directory / job.id / "scripts" / f"{job.id}.sh"
        if isinstance(site, SlurmSite):
            yield f"{job.id}_sbatch.sh", request.materialize()
        elif isinstance(site, LeptonSite):
            spec = request.executor.job_spec().model_dump_json(
                exclude_none=True, by_alias=True, indent=2
            )
            yield f"{job.id}: job", spec
            yield f"{job.id}/launch_script.sh", request.executor.launch_script(request.cmd)
        elif isinstance(site, NemoRunSite):
            yield f"{job.id}: {site.executor}", request_text(job._dryrun_info, site)
        yield f"{job.id}/scripts/{job.id}.sh", script.read_text(encoding="utf-8")


def _title(command: str, config: Any) -> str:
    output = getattr(config, "output", None)
    words = f"{command}-{output.name}" if isinstance(output, Path) else command
    return re.sub(r"[^A-Za-z0-9]+", "-", words)[:40].strip("-")


def _scheduler_id(handle: str) -> str:
    """``slurm_tunnel://nemo_run/42/master/0`` → ``42``; Lepton's is EXPERIMENT___ROLE___JOB."""
    return handle.partition("://")[2].split("/")[1].split("___")[-1] if "://" in handle else ""
