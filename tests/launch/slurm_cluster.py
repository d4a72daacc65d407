"""A Slurm controller and node daemon of a test's own, on this machine, and GPU nodes on paper.

The real node runs jobs; ``gpu1`` to ``gpu4`` have State=CLOUD and GPUs without device files, so the
controller answers for them (``sbatch --test-only``) and nothing ever runs there.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from nemo_bielik.launch.local import free_port

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun")
CONFIGURATION = """\
ClusterName=local
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/node.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/node.log
SchedulerParameters=batch_sched_delay=0,sched_interval=1
ReturnToService=2
MpiDefault=none
KillWait=60
GresTypes=gpu
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=INFINITE
NodeName={host} CPUs={cores} RealMemory=1000 State=UNKNOWN
NodeName=gpu[1-4] CPUs=96 RealMemory=2000000 Gres=gpu:h200:8 State=CLOUD
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes=gpu[1-4] MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Cluster:
    """A running cluster; `PATIENCE` bounds every wait."""

    folder: Path
    patience: float = 600.0

    def run(self, *words: str) -> str:
        """Return what a command of Slurm says."""
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state, such as RUNNING."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")

    def end(self, job: str) -> str:
        """Wait until a job has ended and return its state."""
        under_way = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "")
        self.wait(lambda: self.state(job) not in under_way, f"the end of job {job}")
        return self.state(job)

    def start_again(self, job: str) -> None:
        """Let a job that waits start in seconds; one queued again would wait two minutes.

        Not at once: a node that ended the first start refuses a second one in the same second
        ("Job credential revoked"), and the job would fail.
        """
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds, or fail with the daemons' last lines."""
        deadline = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > deadline:
                logs = [
                    (self.folder / f"{name}.log").read_text() for name in ("controller", "node")
                ]
                pytest.fail(f"{what} did not happen; " + "\n".join(log[-2000:] for log in logs))
            time.sleep(0.1)


def start(folder: Path) -> Cluster:
    """Configure and start the daemons in `folder`; `stop` ends them."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().split(".")[0]
    values = {"controller_port": free_port(), "node_port": free_port(), "cores": os.cpu_count()}
    text = CONFIGURATION.format(folder=folder, host=host, **values)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text("NodeName=gpu[1-4] Name=gpu Type=h200 Count=8\n")
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = folder / "munge"
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    for words in (
        ["munged", f"--socket={munge}/socket", f"--key-file={key}", f"--pid-file={munge}/pid"]
        + [f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--force"],
        ["slurmctld", "-f", str(folder / "slurm.conf")],
        ["slurmd", "-f", str(folder / "slurm.conf"), "-N", host],
    ):
        started = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert started.returncode == 0, f"{words}: {started.stdout}{started.stderr}"
    cluster = Cluster(folder)
    cluster.wait(lambda: _answers(cluster), "a node that is idle")
    return cluster


def stop(folder: Path) -> None:
    """End the jobs and the daemons that `start` started."""
    subprocess.run(["scancel", "--signal=KILL", "--full", "--user=root"], capture_output=True)
    for name in ("node.pid", "controller.pid", "munge/pid"):
        if (folder / name).is_file():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                daemon = psutil.Process(int((folder / name).read_text()))
                daemon.terminate()
                daemon.wait(20)
    os.environ.pop("SLURM_CONF", None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster for the session; skipped, with the reason, where there cannot be one."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no Slurm here: {', '.join(missing)} ('apt install slurm-wlm munge')")
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("starting Slurm's daemons needs Linux and root")
    # munge wants a socket that everybody may reach, and Unix wants a short path to it
    folder = Path(f"/tmp/bielik-slurm-{os.getpid()}")
    try:
        yield start(folder)
    finally:
        stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(cluster: Cluster) -> bool:
    done = subprocess.run(["sinfo", "-h", "-p", "cpu", "-o", "%T"], capture_output=True, text=True)
    return done.stdout.strip() == "idle"
