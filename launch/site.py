"""Where stages can run: sites, as the user's own TOML file describes them.

A file holds one table a site, each of one `kind`; ``bielik launch init`` writes one to start from.
Hosts, accounts and images live there and nowhere in this repository. Secrets are named, never
written down: on Lepton the workspace keeps them, elsewhere the environment does.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.errors import ConfigError, nearest
from nemo_bielik.launch.settings_file import read_table, read_toml

#: Looked at in this order; the first that exists is the site file.
LOCAL_FILE = Path("bielik_site.toml")
USER_FILE = Path("~/.config/bielik/site.toml")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_TIME = re.compile(r"(\d+-)?\d{1,2}(:\d\d){0,2}|\d+(:\d\d){0,2}")
_SECRET = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|CREDENTIALS?)$")


@dataclass(kw_only=True)
class Site:
    """What every kind of site has."""

    environment: dict[str, str] = field(
        default_factory=dict, metadata={"help": "variables of the job; no secrets"}
    )
    code: Literal["packaged", "installed"] = field(
        default="packaged",
        metadata={"help": "send this package's code along, or use what is installed there"},
    )
    python: str = field(default="python3", metadata={"help": "interpreter that runs the stages"})
    root: Path | None = field(
        default=None, metadata={"help": "directory there that relative paths of settings start at"}
    )
    profile: bool = field(default=False, metadata={"help": "run under Nsight Systems (nsys)"})

    def __post_init__(self) -> None:
        if self.root is not None and not self.root.is_absolute():
            raise ConfigError(f"root is {str(self.root)!r}; it must be absolute")
        for name, value in self.environment.items():
            if not _VARIABLE.fullmatch(name):
                raise ConfigError(
                    f"environment.{name}: NeMo-Run exports variables in capitals; name it "
                    f"{re.sub('[^A-Z0-9_]', '_', name.upper())}"
                )
            if value and _SECRET.search(name):
                raise ConfigError(
                    f"environment.{name} looks like a secret, which a file must not hold; on "
                    "Lepton name it under secrets, elsewhere export it in the job's own profile"
                )

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes; `ConfigError` if they do not fit."""
        return 1, ranks


def _spread(ranks: int, per_node: int, max_nodes: int) -> tuple[int, int]:
    """Return nodes and ranks a node: full nodes, or a part of one."""
    if ranks <= per_node:
        return 1, ranks
    if ranks % per_node:
        raise ConfigError(
            f"parallel asks for {ranks} ranks, which do not fill nodes of {per_node}; choose "
            f"tensor × pipeline × data as a multiple of {per_node}, or below it"
        )
    nodes = ranks // per_node
    if max_nodes and nodes > max_nodes:
        raise ConfigError(
            f"parallel asks for {ranks} ranks, {nodes} nodes of {per_node}, but max_nodes is "
            f"{max_nodes}; shrink parallel or raise max_nodes"
        )
    return nodes, per_node


@dataclass(kw_only=True)
class LocalSite(Site):
    """This machine."""

    kind: Literal["local"] = "local"
    ranks: Literal["bielik", "torchrun"] = field(
        default="bielik", metadata={"help": "who starts the ranks: this package, or torchrun"}
    )
    job_directory: Path = field(
        default=Path("~/.nemo_run"), metadata={"help": "where NeMo-Run keeps scripts and logs"}
    )
    python: str = field(default="", metadata={"help": "interpreter; empty: the one running this"})


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
        return _spread(ranks, self.node_ranks, self.max_nodes)


@dataclass(kw_only=True)
class LeptonMount:
    """Storage of the workspace, seen inside the job."""

    path: str = field(metadata={"help": "folder in the storage"})
    mount_path: str = field(metadata={"help": "where the job sees it"})
    source: str = field(metadata={"help": "storage by name, such as node-nfs:shared"})

    def __post_init__(self) -> None:
        if not self.mount_path.startswith("/"):
            raise ConfigError(f"mount_path is {self.mount_path!r}; it must begin with /")


@dataclass(kw_only=True)
class LeptonSite(Site):
    """A workspace of NVIDIA DGX Cloud Lepton; ``lep login`` keeps its token, outside of this."""

    kind: Literal["lepton"] = "lepton"
    node_group: str = field(metadata={"help": "node group by its name"})
    resource_shape: str = field(metadata={"help": "what a node gives, such as gpu.8xh200"})
    image: str = field(metadata={"help": "container image"})
    job_directory: str = field(
        metadata={"help": "inside one of the mounts: scripts, code and records of the jobs"}
    )
    mounts: list[LeptonMount] = field(
        default_factory=list, metadata={"help": "storage that the job sees"}
    )
    gpus_per_node: int = field(default=8, metadata={"help": "GPUs of the resource shape"})
    max_nodes: int = field(default=0, metadata={"help": "refuse jobs of more nodes; 0: any"})
    secrets: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "variable = name of the workspace's secret, never its value"},
    )
    image_pull_secrets: list[str] = field(
        default_factory=list, metadata={"help": "registry credentials of the workspace, by name"}
    )
    reservation: str = field(default="", metadata={"help": "reservation of nodes by its id"})
    shared_memory_mib: int = field(default=65536, metadata={"help": "size of /dev/shm"})
    retries: int = field(default=3, metadata={"help": "times that a failed job starts again"})
    setup: list[str] = field(
        default_factory=list, metadata={"help": "shell lines before the stage"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = [mount.mount_path.rstrip("/") for mount in self.mounts]
        if not any(self.job_directory.startswith(f"{place}/") for place in seen):
            raise ConfigError(
                f"job_directory {self.job_directory!r} lies in none of the mounts "
                f"({', '.join(seen) or 'there are none'}), so it would be lost with the job"
            )
        for name, secret in self.secrets.items():
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", secret):
                raise ConfigError(
                    f"secrets.{name}: must be the name of a secret of the workspace, not its value"
                )
        if self.gpus_per_node < 0 or self.retries < 0:
            raise ConfigError("gpus_per_node and retries must be 0 or more")

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes."""
        return _spread(ranks, max(self.gpus_per_node, 1), self.max_nodes)


@dataclass(kw_only=True)
class NemoRunSite(Site):
    """Whatever else NeMo-Run launches on, by the name of its executor and that one's own fields."""

    kind: Literal["nemo_run"] = "nemo_run"
    executor: str = field(metadata={"help": "class in nemo_run: DockerExecutor, KubeflowExecutor"})
    ranks_per_node: int = field(default=1, metadata={"help": "ranks that a node holds: its GPUs"})
    launcher: Literal["", "torchrun", "ft"] = field(
        default="torchrun", metadata={"help": "who starts several ranks on a node"}
    )
    settings: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "the executor's fields"}
    )

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes."""
        return _spread(ranks, self.ranks_per_node, 0)


KINDS: dict[str, type[Site]] = {
    "local": LocalSite,
    "slurm": SlurmSite,
    "lepton": LeptonSite,
    "nemo_run": NemoRunSite,
}


def site_file(given: Path | None = None) -> Path | None:
    """Return the site file: `given`, ./bielik_site.toml, or the user's own; None if there is none.

    Raises `ConfigError` if `given` does not exist.
    """
    if given is not None and not given.is_file():
        raise ConfigError(f"--site: {given} does not exist; `bielik launch init` writes one")
    places = [given] if given else [LOCAL_FILE, USER_FILE.expanduser()]
    return next((place for place in places if place.is_file()), None)


def load_sites(path: Path | None = None) -> dict[str, Site]:
    """Return every site of the site file by name; ``local`` is always among them.

    Raises `ConfigError` for a file, a table or a value that does not say what it must.
    """
    found = site_file(path)
    tables = read_toml(found) if found else {}
    sites: dict[str, Site] = {"local": LocalSite()}
    for name, table in tables.items():
        where = f"{found}: [{name}]"
        if not isinstance(table, dict):
            raise ConfigError(f"{found}: {name} stands outside of a site's table; put it in [NAME]")
        kind = table.get("kind")
        if kind not in KINDS:
            hint = nearest(str(kind), KINDS) if kind else ""
            raise ConfigError(
                f"{where}: kind is {kind!r}{hint}; it must be one of {', '.join(KINDS)}"
            )
        sites[name] = read_table(KINDS[kind], table, where)
    return sites


def find_site(name: str, path: Path | None = None, changes: Sequence[str] = ()) -> Site:
    """Return the site `name`, changed by ``setting=value`` strings.

    Raises `ConfigError` for an unknown site, with the nearest one.
    """
    from nemo_bielik.options import apply_overrides

    sites = load_sites(path)
    if name not in sites:
        place = site_file(path) or "no site file; `bielik launch init` writes one"
        raise ConfigError(
            f"--executor: unknown site {name!r}{nearest(name, sites)}; known are "
            f"{', '.join(sites)} ({place})"
        )
    site: Site = apply_overrides(sites[name], changes, f"executor {name}")
    return site


def nemo_run_home(site: Site) -> Path:
    """Return where NeMo-Run keeps its experiments for `site`, on the machine that submits.

    A local job runs where its script was written, and so does a Slurm job from the login node; over
    SSH and on Lepton the folder is copied there, and the original stays with the user.
    """
    if isinstance(site, LocalSite) or (isinstance(site, SlurmSite) and site.ssh is None):
        return site.job_directory.expanduser().absolute()
    return Path(os.environ.get("NEMORUN_HOME", "~/.nemo_run")).expanduser().absolute()
