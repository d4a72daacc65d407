"""A site and a task → the NeMo-Run executor that runs it, and the script of its ranks.

Importing this module imports NeMo-Run, which takes seconds; only launching does.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nemo_run as run

import nemo_bielik
from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.lepton_site import LeptonSite
from nemo_bielik.launch.others import make_executor
from nemo_bielik.launch.packaging import CodePackager
from nemo_bielik.launch.site import LocalSite, NemoRunSite, Site
from nemo_bielik.launch.slurm_site import SlurmSite
from nemo_bielik.launch.tasks import Task, command_words, script

#: Where NeMo-Run puts a job's code; without a container it writes the job's directory instead.
_CODE = "/nemo_run/code"
#: Ports of different jobs on one node differ.
_SLURM_PORT = "$((20000+SLURM_JOB_ID%20000))"
_RANK_OF_SLURM = {
    "RANK": "$SLURM_PROCID",
    "LOCAL_RANK": "$SLURM_LOCALID",
    "WORLD_SIZE": "$SLURM_NTASKS",
}
#: First and last step that is profiled: past the slow ones of the beginning.
_PROFILED = (10, 12)


def build(site: Site, task: Task, title: str) -> tuple[Any, str]:
    """Return the executor for `task` on `site`, and the script that it runs.

    Raises `ConfigError` if the ranks do not fit the site's nodes.
    """
    site = site.of(task.stage)
    task = _with_profiled_steps(site, task)
    builders: dict[type[Site], Callable[..., tuple[Any, str]]] = {
        LocalSite: _local,
        SlurmSite: _slurm,
        LeptonSite: _lepton,
        NemoRunSite: _nemo_run,
    }
    return builders[type(site)](site, task, title)


def _local(site: LocalSite, task: Task, title: str) -> tuple[Any, str]:
    python = site.python or sys.executable
    # of the interpreter's environment comes torchrun, and from the checkout comes the package
    search = f"{Path(python).parent}:{os.environ.get('PATH', os.defpath)}"
    exports = {"PATH": f'{shlex.quote(str(Path(python).parent))}:"$PATH"'}
    if site.code == "packaged":
        exports["PYTHONPATH"] = shlex.quote(str(Path(nemo_bielik.__file__).parent.parent))
    starter = _starter(site, task)
    torchrun = site.ranks == "torchrun" and not starter
    executor = run.LocalExecutor(
        ntasks_per_node=task.ranks if torchrun else 1,
        launcher=_launcher(site, task, "torchrun" if torchrun else None),
        env_vars={"PATH": search, **site.environment},
    )
    return executor, script(command_words(task), python, exports, starter)


def _slurm(site: SlurmSite, task: Task, title: str) -> tuple[Any, str]:
    nodes, per_node = site.slots(task.ranks)
    starter = _starter(site, task, "$MASTER_ADDR:$MASTER_PORT", "$SLURM_JOB_ID")
    started = 1 if starter else per_node  # by Slurm, on each node
    cores = site.cpus_per_rank * per_node // started
    container = site.container
    environment = {name: shlex.quote(value) for name, value in site.environment.items()}
    environment |= {"MASTER_ADDR": "$head_node", "MASTER_PORT": _SLURM_PORT}
    executor = run.SlurmExecutor(
        account=site.account,
        partition=site.partition or None,
        qos=site.qos or None,
        time=site.time,
        nodes=nodes,
        ntasks_per_node=started,
        cpus_per_task=cores or None,
        gpus_per_node=per_node if site.gpus_per_node else None,
        gres=f"{site.gres.rpartition(':')[0]}:{per_node}" if site.gres else None,
        # to the ranks, not to the batch script: they save, and the script queues the job again
        signal=f"TERM@{site.stop_seconds}",
        array=site.array or None,
        additional_parameters=_further_options(site, task) or None,
        container_image=container.image if container else None,
        container_mounts=list(container.mounts) if container else [],
        container_env=[*environment] if container else None,
        env_vars=environment,
        # since Slurm 22.05 srun no longer takes it over from sbatch
        srun_args=[f"--cpus-per-task={cores}"] if cores else None,
        retries=site.requeues,
        packager=_packager(site),
        launcher=_launcher(site, task, None),
        tunnel=_tunnel(site),
        setup_lines="\n".join(site.setup) or None,
        job_name_prefix=f"{title}.",
        poll_estimated_start_time=False,
    )
    exports = {} if starter else _RANK_OF_SLURM | {"LOCAL_WORLD_SIZE": str(per_node)}
    if per_node > 1 and not site.gpus:
        exports["OMP_NUM_THREADS"] = "${OMP_NUM_THREADS:-1}"
    words = command_words(task)
    if container is None and any("/nemo_run" in word for word in [*words, site.python]):
        raise ConfigError("paths must not contain /nemo_run, which NeMo-Run replaces; rename them")
    return executor, script(words, site.python, exports | _code_path(site), starter)


def _further_options(site: SlurmSite, task: Task) -> dict[str, Any]:
    """A job whose forerunner failed would otherwise wait in the queue for ever."""
    chained = {"kill_on_invalid_dep": "yes"} if task.after else {}
    return chained | site.sbatch


def _tunnel(site: SlurmSite) -> Any:
    experiments = str(site.job_directory / "experiments")
    if site.ssh is None:
        return run.LocalTunnel(job_dir=experiments)
    return run.SSHTunnel(
        host=site.ssh.host,
        user=site.ssh.user,
        port=site.ssh.port,
        identity=str(site.ssh.identity) if site.ssh.identity else None,
        job_dir=experiments,
    )


def _lepton(site: LeptonSite, task: Task, title: str) -> tuple[Any, str]:
    from nemo_bielik.launch.lepton import PinnedLeptonExecutor

    nodes, per_node = site.slots(task.ranks)
    starter = _starter(site, task, "$MASTER_ADDR:$MASTER_PORT", "${LEPTON_JOB_NAME:-bielik}")
    several = task.ranks > 1 and not starter
    executor = PinnedLeptonExecutor(
        container_image=site.image,
        nemo_run_dir=site.job_directory,
        nodes=nodes,
        gpus_per_node=per_node if site.gpus_per_node else 0,
        nprocs_per_node=per_node,
        shared_memory_size=site.shared_memory_mib,
        resource_shape=site.resource_shape,
        node_group=site.node_group,
        node_reservation=site.reservation,
        secret_vars=dict(site.secrets),
        mounts=[
            {"path": m.path, "mount_path": m.mount_path, "from": m.source} for m in site.mounts
        ],
        image_pull_secrets=list(site.image_pull_secrets),
        pre_launch_commands=list(site.setup),
        env_vars=dict(site.environment),
        retries=site.retries,
        packager=_packager(site),
        launcher=_launcher(site, task, "torchrun" if several else None),
    )
    return executor, script(command_words(task), site.python, _code_path(site), starter)


def _nemo_run(site: NemoRunSite, task: Task, title: str) -> tuple[Any, str]:
    nodes, per_node = site.slots(task.ranks)
    sizes = {"nodes": nodes, "num_nodes": nodes} if nodes > 1 else {}
    if per_node > 1:
        names = ("ntasks_per_node", "nprocs_per_node", "gpus_per_node", "num_gpus")
        sizes |= dict.fromkeys(names, per_node)
    launcher = _launcher(site, task, site.launcher if task.ranks > 1 else None)
    executor = make_executor(site, sizes, launcher)
    return executor, script(command_words(task), site.python, _code_path(site))


def _launcher(site: Site, task: Task, name: str | None) -> Any:
    from nemo_run.core.execution.launcher import LAUNCHER_MAP, Launcher

    if name is None and not site.profile:
        return None
    kind = LAUNCHER_MAP[name] if name else Launcher
    if not site.profile or _has_steps(task):
        return kind(nsys_profile=site.profile)
    # NeMo-Run's own arguments record nothing until the program says so, as only a training does
    return kind(nsys_profile=True, nsys_extra_args=["--force-overwrite=true"])


def _has_steps(task: Task) -> bool:
    return hasattr(task.config, "logging")


def _with_profiled_steps(site: Site, task: Task) -> Task:
    """Have a training tell nsys which steps to record, unless it says so itself."""
    if not site.profile or not _has_steps(task) or task.config.logging.profile_steps:
        return task
    last = min(_PROFILED[1], task.config.iters)
    steps = [min(_PROFILED[0], last), last]
    logging = replace(task.config.logging, profile_steps=steps)
    return replace(task, config=replace(task.config, logging=logging))


def _starter(site: Site, task: Task, meeting: str = "", name: str = "") -> list[str]:
    """What starts the ranks and watches over them, where that is asked for; see `script`."""
    if site.fault_tolerance is None or not hasattr(task.config, "parallel"):
        return []
    nodes, per_node = site.slots(task.ranks)
    return list(site.fault_tolerance.words(nodes, per_node, meeting, name))


def _packager(site: Site) -> Any:
    return CodePackager() if site.code == "packaged" else run.Packager()


def _code_path(site: Site) -> dict[str, str]:
    if site.code == "installed":
        return {}
    return {"PYTHONPATH": f'"{_CODE}${{PYTHONPATH:+:$PYTHONPATH}}"'}
