"""A workspace of NVIDIA DGX Cloud Lepton as a site file describes it."""

from dataclasses import dataclass, field
from typing import Literal

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.site import Site, require_name, spread


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
            meaning = "a secret of the workspace"
            require_name(secret, r"[A-Za-z0-9_.-]{1,63}", f"secrets.{name}", meaning)
        if self.gpus_per_node < 0 or self.retries < 0:
            raise ConfigError("gpus_per_node and retries must be 0 or more")

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes."""
        return spread(ranks, max(self.gpus_per_node, 1), self.max_nodes)
