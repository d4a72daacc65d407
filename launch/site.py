"""What every place to run at has, this machine, and whatever else NeMo-Run knows.

Sites are described in a file of the user's own (`nemo_bielik.launch.site_file`). Hosts, accounts
and images live there and nowhere in this repository. Secrets are named, never written down: on
Lepton the workspace keeps them, elsewhere the environment does.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.fault_tolerance import FaultTolerance

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
_TOKEN = re.compile(r"(hf_|sk-|nvapi-|ghp_|github_pat_)[\w-]{16,}|[0-9A-Fa-f]{32,}")
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
    profile: bool = field(
        default=False,
        metadata={"help": "run under Nsight Systems (nsys): some steps of a training, else all"},
    )
    fault_tolerance: FaultTolerance | None = field(
        default=None, metadata={"help": "start failed and hung ranks again within the job"}
    )
    stages: dict[str, "Site"] = field(
        default_factory=dict, metadata={"help": "what differs for the jobs of one stage"}
    )

    def __post_init__(self) -> None:
        if self.profile and self.fault_tolerance is not None:
            raise ConfigError(
                "profile and fault_tolerance exclude each other: nsys would follow the launcher, "
                "not the ranks; choose one"
            )
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

    def of(self, stage: str) -> "Site":
        """Return the site as the jobs of `stage` have it."""
        return self.stages.get(stage, self)


def spread(ranks: int, per_node: int, max_nodes: int) -> tuple[int, int]:
    """Return nodes and ranks a node: full nodes, or a part of one."""
    if ranks <= per_node:
        return 1, ranks
    if ranks % per_node:
        raise ConfigError(
            f"parallel asks for {ranks} ranks, which do not fill nodes of {per_node}; choose "
            f"tensor × pipeline × data × context as a multiple of {per_node}, or below it"
        )
    nodes = ranks // per_node
    if max_nodes and nodes > max_nodes:
        raise ConfigError(
            f"parallel asks for {ranks} ranks, {nodes} nodes of {per_node}, but max_nodes is "
            f"{max_nodes}; shrink parallel or raise max_nodes"
        )
    return nodes, per_node


def require_name(name: str, pattern: str, setting: str, meaning: str) -> None:
    """Raise `ConfigError`, without showing it, unless `name` is one and not the secret itself."""
    if not re.fullmatch(pattern, name) or _TOKEN.fullmatch(name):
        raise ConfigError(f"{setting}: must be the name of {meaning}, not its value")


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
    secrets: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "fields of the executor that are taken from these environment variables"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.settings.items():
            if isinstance(value, str) and value and _SECRET.search(name.upper()):
                raise ConfigError(
                    f"settings.{name} looks like a secret, which a file must not hold; write "
                    f"secrets = {{ {name} = 'VARIABLE' }} and export VARIABLE"
                )
        for name, variable in self.secrets.items():
            require_name(variable, r"[A-Za-z_]\w*", f"secrets.{name}", "a variable that holds it")
        if self.ranks_per_node < 1:
            raise ConfigError(f"ranks_per_node is {self.ranks_per_node}; it must be at least 1")
        if self.fault_tolerance is not None:
            raise ConfigError(
                "fault_tolerance is for local, Slurm and Lepton sites; set launcher = 'ft' here, "
                "NeMo-Run's own"
            )

    def slots(self, ranks: int) -> tuple[int, int]:
        """Return nodes and ranks a node for `ranks` processes."""
        return spread(ranks, self.ranks_per_node, 0)
