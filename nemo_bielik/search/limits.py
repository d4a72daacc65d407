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

#: Share of its bandwidth that a GPU reaches at batch 1: what the report's Table 16 gives for the
#: original, 18.28 ms a token on an RTX PRO 6000 of 1.79 TB/s.
BANDWIDTH_SHARE = 0.67


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
    tokens: float = field(default=25e9, metadata={"help": "tokens of that distillation"})
    sequence_length: int = field(default=4096, metadata={"help": "its tokens a sequence"})
    global_batch_size: int = field(default=768, metadata={"help": "its sequences a step"})

    def __post_init__(self) -> None:
        for name in ("max_parameters", "min_parameters", "max_memory_gb"):
            self._require(name, 0)
        for name in ("max_milliseconds", "max_gpu_hours"):
            self._require(name, 0)
        for name in ("context", "tokens", "sequence_length", "global_batch_size"):
            self._require(name, 1)
        if 0 < self.max_parameters < self.min_parameters:
            raise ConfigError(
                f"limits.min_parameters is {self.min_parameters:g}; it must be at most "
                f"max_parameters ({self.max_parameters:g})"
            )
        device(self.device)
        Cluster.parse(self.cluster)

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


def distillation(arch: ModelArch, source: ModelArch, limits: Limits) -> Estimate:
    """Return the fastest layout in which `arch` is distilled on the cluster beside `source`.

    If none fits, its `fits` is False.
    """
    workload = Workload(arch, source, limits.sequence_length, limits.global_batch_size)
    return estimates(workload, Cluster.parse(limits.cluster))[0]


def gpu_hours(arch: ModelArch, source: ModelArch, limits: Limits) -> float:
    """Return the GPU-hours of distilling `arch` from `source` on all of the limits' tokens."""
    seconds = limits.tokens / distillation(arch, source, limits).tokens_per_second
    return seconds / 3600 * Cluster.parse(limits.cluster).gpus


@lru_cache(maxsize=4096)
def _quick_count(arch: ModelArch) -> int:
    """Return `count_one_embedding`; all layers are alike, so two models of few layers tell it."""
    one, two = (count_one_embedding(arch.replace(name="", num_layers=n)) for n in (1, 2))
    return one + (arch.num_layers - 1) * (two - one)


def breaches(arch: ModelArch, source: ModelArch, limits: Limits) -> list[str]:
    """Return which limits a model breaks, each with its figure; none if it keeps to all."""
    parameters = _quick_count(arch)
    if limits.max_parameters and parameters > limits.max_parameters:
        return [f"too large: {parameters:,} parameters, limit {limits.max_parameters:,.0f}"]
    if parameters < limits.min_parameters:
        return [f"too small: {parameters:,} parameters, at least {limits.min_parameters:,.0f}"]
    found = []
    if limits.max_memory_gb or limits.max_milliseconds:
        found += _runtime_breaches(cost(arch, limits), limits)
    if limits.max_gpu_hours:
        hours = gpu_hours(arch, source, limits)
        if hours > limits.max_gpu_hours:
            found.append(
                f"too dear: {hours:,.0f} GPU-hours on {limits.cluster}, limit "
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
