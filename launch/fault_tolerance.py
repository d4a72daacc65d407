"""Ranks that fail or hang are started again within their job, by NVIDIA Resiliency's launcher.

NeMo-Run 0.11.1 can start it too (`FaultTolerance`), but has no option for the timeouts of sections,
which are what Megatron-Bridge reports, and on Slurm it queues a job again until NeMo 2's callback
has written a file, so a stage without that callback would go round for ever.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from nemo_bielik.errors import ConfigError

_MODULE = "nvidia_resiliency_ext.fault_tolerance.launcher"


@dataclass(kw_only=True)
class FaultTolerance:
    """How often the ranks start again, and after how long a silence one counts as hung."""

    restarts: int = field(default=3, metadata={"help": "times that the ranks start within one job"})
    setup_seconds: int = field(
        default=1800, metadata={"help": "from a start to the first step; also between steps"}
    )
    step_seconds: int = field(default=600, metadata={"help": "that one step may take"})
    save_seconds: int = field(default=1800, metadata={"help": "that saving may hold a rank up"})

    def __post_init__(self) -> None:
        for part in fields(self):
            value = getattr(self, part.name)
            if value < 1:
                raise ConfigError(f"{part.name} is {value}; it must be at least 1")

    def words(self, nodes: int, per_node: int, meeting: str, name: str) -> Iterator[str]:
        """Yield what stands between the interpreter and the module that the ranks run.

        Args:
            nodes: nodes of the job; the launcher is started once on each.
            per_node: ranks on each.
            meeting: HOST:PORT of the first node; empty: there is no other.
                Shell variables are written as they are.
            name: of the job, the same on all its nodes.
        """
        yield f"-m {_MODULE}"
        yield f"--nnodes={nodes} --nproc-per-node={per_node} --max-restarts={self.restarts}"
        place = f"--rdzv-backend=c10d --rdzv-endpoint={meeting} --rdzv-id={name}"
        yield place if meeting else "--standalone"
        sections = {"setup": self.setup_seconds, "step": self.step_seconds}
        sections["checkpointing"] = self.save_seconds
        timeouts = ",".join(f"{section}:{seconds}" for section, seconds in sections.items())
        yield f"--ft-rank-section-timeouts={timeouts}"
        yield f"--ft-rank-out-of-section-timeout={self.setup_seconds}"
