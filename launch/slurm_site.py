"""A Slurm cluster as a site file describes it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.site import Site, spread

_TIME = re.compile(r"(\d+-)?\d{1,2}(:\d\d){0,2}|\d+(:\d\d){0,2}")
_ARRAY = re.compile(r"\d+-\d+%1")
_OPTION = re.compile(r"[a-z][a-z0-9]+([-_][a-z0-9]+)*")
#: Options of sbatch that something else says: the site's settings, or the layout of a stage.
_SAID_BY = {
    **dict.fromkeys(("account", "partition", "qos", "time", "array", "gres", "gpus-per-node"), ""),
    **dict.fromkeys(("nodes", "ntasks", "ntasks-per-node", "gpus", "gpus-per-task"), "parallel"),
    **dict.fromkeys(("requeue", "no-requeue"), "requeues"),
    **dict.fromkeys(("output", "error"), "job_directory"),
    "cpus-per-task": "cpus_per_rank",
    "signal": "stop_seconds",
    "job-name": "--job-name",
    "dependency": "the chain",
}


@dataclass(kw_only=True)
class SSHSettings:
    """The login node, where jobs are not submitted from there."""

    host: str = field(metadata={"help": "login node"})
    user: str = field(metadata={"help": "user name on it"})
    identity: Path | None = field(default=None, metadata={"help": "private key file"})
    port: int = field(default=22, metadata={"help": "port of its SSH server"})


@dataclass(kw_only=True)
class ContainerSettings:
    """An image that Slurm's pyxis plugin runs the ranks in."""

    image: str = field(metadata={"help": "image: a registry's name or a .sqsh file"})
    mounts: list[str] = field(
        default_factory=list, metadata={"help": '"outside:inside"; the paths of the settings'}
    )

    def __post_init__(self) -> None:
        for mount in self.mounts:
            if ":" not in mount:
                raise ConfigError(f"mounts: {mount!r} must be 'outside:inside'")


@dataclass(kw_only=True)
class SlurmSite(Site):
    """A Slurm cluster, from its login node or over SSH to it."""

    kind: Literal["slurm"] = "slurm"
    account: str = field(metadata={"help": "account that is charged"})
    job_directory: Path = field(
        metadata={"help": "on the cluster, seen by all nodes: scripts, code and logs"}
    )
    partition: str = field(default="", metadata={"help": "partition; empty: the cluster's default"})
    qos: str = field(default="", metadata={"help": "quality of service"})
    time: str = field(default="01:00:00", metadata={"help": "limit of one job"})
    gpus_per_node: int = field(default=0, metadata={"help": "GPUs a node, asked for by number"})
    gres: str = field(
        default="", metadata={"help": "GPUs a node as a resource with its type: gpu:h200:8"}
    )
    ranks_per_node: int = field(
        default=0, metadata={"help": "ranks a node of CPUs; with GPUs it is their number"}
    )
    cpus_per_rank: int = field(default=0, metadata={"help": "CPU cores a rank; 0: Slurm's default"})
    max_nodes: int = field(default=0, metadata={"help": "refuse jobs of more nodes; 0: any"})
    stop_seconds: int = field(
        default=180,
        metadata={"help": "SIGTERM so long before the time limit: time to save a checkpoint"},
    )
    requeues: int = field(
        default=5, metadata={"help": "times a job that was stopped or failed is queued again"}
    )
    array: str = field(
        default="", metadata={"help": "job array such as 1-8%1: that many jobs, each continues"}
    )
    setup: list[str] = field(
        default_factory=list, metadata={"help": "shell lines before the stage: module load …"}
    )
    sbatch: dict[str, str | int | bool] = field(
        default_factory=dict, metadata={"help": "further sbatch options by their long names"}
    )
    container: ContainerSettings | None = None
    ssh: SSHSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _TIME.fullmatch(self.time):
            raise ConfigError(f"time is {self.time!r}; it must be like 04:00:00 or 1-00:00:00")
        if not 0 < self.stop_seconds < seconds(self.time):
            raise ConfigError(
                f"stop_seconds is {self.stop_seconds}; it must be above 0 and below time "
                f"({self.time}), or a job would be stopped as it starts, or without a checkpoint"
            )
        if self.array and not _ARRAY.fullmatch(self.array):
            raise ConfigError(
                f"array is {self.array!r}; it must be like 1-8%1: jobs that continue one run must "
                "run one at a time"
            )
        self._check_options()
        if self.gpus_per_node and self.gres:
            raise ConfigError("gpus_per_node and gres exclude each other; gres names the type too")
        if self.gres and not re.fullmatch(r"\w+(:[\w.-]+)?:\d+", self.gres):
            raise ConfigError(f"gres is {self.gres!r}; it must be like gpu:h200:8")
        for name in ("gpus_per_node", "ranks_per_node", "cpus_per_rank", "max_nodes", "requeues"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        # NeMo-Run writes the job's directory in the place of /nemo_run, wherever that stands.
        if self.container is None and "/nemo_run" in str(self.job_directory):
            raise ConfigError("job_directory must not contain /nemo_run, which NeMo-Run replaces")
        if not self.job_directory.is_absolute():
            raise ConfigError(f"job_directory is {str(self.job_directory)!r}; it must be absolute")
        if not self.node_ranks:
            raise ConfigError(
                "one of gpus_per_node, gres and ranks_per_node must say how many ranks a node holds"
            )

    def _check_options(self) -> None:
        """Refuse options of sbatch that would contradict what else the job is told."""
        for name in self.sbatch:
            if not _OPTION.fullmatch(name):
                raise ConfigError(
                    f"sbatch.{name}: must be an option's long name, such as mail-type"
                )
            option = name.replace("_", "-")
            if option in _SAID_BY:
                setting = _SAID_BY[option] or option.replace("-", "_")
                raise ConfigError(f"sbatch.{name}: {setting} says that; remove it here")

    @property
    def gpus(self) -> int:
        """GPUs a node; 0 on nodes of CPUs."""
        return self.gpus_per_node or (int(self.gres.rpartition(":")[2]) if self.gres else 0)

    @property
    def node_ranks(self) -> int:
        """Ranks that a node holds."""
        return self.gpus or self.ranks_per_node

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes."""
        return spread(ranks, self.node_ranks, self.max_nodes)


def seconds(limit: str) -> int:
    """Return the seconds of a time limit as Slurm reads it: "90" are minutes, "1-12" has hours."""
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days or len(parts) == 3:
        hours, minutes, rest = (*parts, 0, 0)[:3]
    else:
        hours, minutes, rest = (0, *parts, 0)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + rest
