"""What a candidate may cost, reckoned by the planner before anything exists."""

from dataclasses import dataclass, field
from functools import lru_cache

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.devices import Cluster, device
from nemo_bielik.planner.layouts import Estimate, estimates
from nemo_bielik.planner.memory import kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import count_one_embedding
from nemo_bielik.planner.roofline import seconds_per_token
from nemo_bielik.planner.training_memory import Workload
from nemo_bielik.training import TrainSettings

#: Share of its bandwidth that a GPU reaches at batch 1: what the report's Table 16 gives for the
#: original, 18.28 ms a token on an RTX PRO 6000 of 1.79 TB/s.
BANDWIDTH_SHARE = 0.67
_MOST = ("max_parameters", "max_memory_gb", "max_milliseconds", "max_gpu_hours")


@dataclass(kw_only=True)
class Limits:
    """What candidates may cost at most; 0: anything.

    Parameters are counted as in the report, with one embedding matrix.
    """

    max_parameters: float = field(default=0.0, metadata={"help": "most parameters"})
    min_parameters: float = field(default=0.0, metadata={"help": "fewest parameters"})
    max_memory_gb: float = field(
        default=0.0, metadata={"help": "most GB of weights and key/value cache, in bf16"}
    )
    context: int = field(default=4096, metadata={"help": "tokens of that cache"})
    max_milliseconds: float = field(
        default=0.0, metadata={"help": "longest time an output token, one sequence on `device`"}
    )
    device: str = field(default="H200", metadata={"help": "GPU that the model will run on"})
    max_gpu_hours: float = field(
        default=0.0, metadata={"help": "most GPU-hours of one whole distillation on `cluster`"}
    )
    cluster: str = field(default="2x8xH200", metadata={"help": "nodes x GPUs x name"})

    def __post_init__(self) -> None:
        for name in (*_MOST, "min_parameters"):
            self._require(name, 0)
        self._require("context", 1)
        if 0 < self.max_parameters < self.min_parameters:
            raise ConfigError(
                f"limits.min_parameters is {self.min_parameters:g}; it must be at most "
                f"max_parameters ({self.max_parameters:g})"
            )
        device(self.device)
        Cluster.parse(self.cluster)

    @property
    def given(self) -> bool:
        """Whether anything is limited from above."""
        return any(getattr(self, name) for name in _MOST)

    def _require(self, name: str, least: float) -> None:
        value = getattr(self, name)
        if not value >= least:
            raise ConfigError(f"limits.{name} is {value:g}; it must be at least {least:g}")


@dataclass(frozen=True)
class Cost:
    """What one model is and takes: bytes and seconds at batch 1 in bf16, on the limits' device."""

    parameters: int
    memory_bytes: int
    seconds_per_token: float


def cost(arch: ModelArch, limits: Limits) -> Cost:
    """Return the planner's figures of a model."""
    bandwidth = BANDWIDTH_SHARE * device(limits.device).bandwidth
    return Cost(
        parameters=count_one_embedding(arch),
        memory_bytes=weights_bytes(arch, "bf16") + kv_cache_bytes(arch, "bf16", limits.context),
        seconds_per_token=seconds_per_token(arch, "bf16", bandwidth, limits.context),
    )


def distillation(
    arch: ModelArch, teacher: ModelArch | None, run: TrainSettings, cluster: str
) -> Estimate:
    """Return the fastest layout in which `arch` is distilled; if none fits, its `fits` is False.

    Args:
        teacher: the live one beside it; None where a cache takes its place.
    """
    workload = Workload(arch, teacher, run.sequence_length, run.global_batch_size)
    # a search scores in the layout of its distillations, and scoring wants whole sequences
    return estimates(workload, Cluster.parse(cluster), whole_sequences=True)[0]


def hours(arch: ModelArch, teacher: ModelArch | None, run: TrainSettings, cluster: str) -> float:
    """Return the hours of distilling `arch` on all tokens of `run`."""
    return run.tokens / distillation(arch, teacher, run, cluster).tokens_per_second / 3600


def _quick_count(arch: ModelArch) -> int:
    """Return `count_one_embedding`; all layers are alike, so two models of few layers tell it."""
    one, two = _of_one_and_two_layers(arch.replace(name="", num_layers=1))
    return one + (arch.num_layers - 1) * (two - one)


@lru_cache(maxsize=8192)
def _of_one_and_two_layers(arch: ModelArch) -> tuple[int, int]:
    return count_one_embedding(arch), count_one_embedding(arch.replace(num_layers=2))


def breaches(arch: ModelArch, source: ModelArch, limits: Limits, run: TrainSettings) -> list[str]:
    """Return which limits a model breaks, each with its figure; none if it keeps to all.

    Args:
        run: the whole distillation of `arch` from `source`, whose GPU-hours may be limited.
    """
    parameters = _quick_count(arch)
    if limits.max_parameters and parameters > limits.max_parameters:
        return [f"too large: {parameters:,} parameters, limit {limits.max_parameters:,.0f}"]
    if parameters < limits.min_parameters:
        return [f"too small: {parameters:,} parameters, at least {limits.min_parameters:,.0f}"]
    found = []
    if limits.max_memory_gb or limits.max_milliseconds:
        found += _runtime_breaches(cost(arch, limits), limits)
    if limits.max_gpu_hours:
        taken = hours(arch, source, run, limits.cluster) * Cluster.parse(limits.cluster).gpus
        if taken > limits.max_gpu_hours:
            found.append(
                f"too dear: {taken:,.0f} GPU-hours on {limits.cluster}, limit "
                f"{limits.max_gpu_hours:,.0f}"
            )
    return found


def _runtime_breaches(figures: Cost, limits: Limits) -> list[str]:
    found = []
    gigabytes, milliseconds = figures.memory_bytes / 1e9, 1e3 * figures.seconds_per_token
    if limits.max_milliseconds and milliseconds > limits.max_milliseconds:
        found.append(
            f"too slow: {milliseconds:.4g} ms a token on {limits.device}, limit "
            f"{limits.max_milliseconds:g}"
        )
    if limits.max_memory_gb and gigabytes > limits.max_memory_gb:
        found.append(
            f"too large: {gigabytes:.4g} GB with {limits.context:,} tokens, limit "
            f"{limits.max_memory_gb:g}"
        )
    return found
