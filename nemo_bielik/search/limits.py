"""What a candidate may cost, reckoned by the planner before anything exists."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.devices import Cluster, device
from nemo_bielik.planner.layouts import MARGIN, Estimate, estimate, estimates
from nemo_bielik.planner.memory import kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import count_one_embedding
from nemo_bielik.planner.roofline import bytes_per_token
from nemo_bielik.planner.training_memory import Layout, Workload
from nemo_bielik.training import TrainSettings

#: Share of its bandwidth that a GPU reaches at batch 1: what the report's Table 16 gives for the
#: original, 18.28 ms a token on an RTX PRO 6000 of 1.79 TB/s.
BANDWIDTH_SHARE = 0.67
_MOST = ("max_parameters", "max_memory_gb", "max_milliseconds", "max_gpu_hours")
_WORDS = {
    "max_parameters": "too large: {value:,.0f} parameters, limit {bound:,.0f}",
    "min_parameters": "too small: {value:,.0f} parameters, at least {bound:,.0f}",
    "max_memory_gb": "too large: {value:.4g} GB with {context:,} tokens, limit {bound:g}",
    "max_milliseconds": "too slow: {value:.4g} ms a token on {device}, limit {bound:g}",
    "max_gpu_hours": "too dear: {value:,.0f} GPU-hours on {cluster}, limit {bound:,.0f}",
    "cluster": "does not fit {cluster}: {value:.4g} GB a GPU at least, limit {bound:.4g}",
}


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
    # all layers are alike, so two models of few layers tell them
    one, two = _of_one_and_two_layers(arch.replace(name="", num_layers=1), limits.context)
    parameters, memory, read = (
        a + (arch.num_layers - 1) * (b - a) for a, b in zip(one, two, strict=True)
    )
    bandwidth = BANDWIDTH_SHARE * device(limits.device).bandwidth
    return Cost(parameters, memory, read / bandwidth)


@lru_cache(maxsize=8192)
def _of_one_and_two_layers(arch: ModelArch, context: int) -> tuple[tuple[int, ...], ...]:
    return _counts(arch, context), _counts(arch.replace(num_layers=2), context)


def _counts(arch: ModelArch, context: int) -> tuple[int, ...]:
    """Return parameters, bytes held and bytes read a token."""
    return (
        count_one_embedding(arch),
        weights_bytes(arch, "bf16") + kv_cache_bytes(arch, "bf16", context),
        bytes_per_token(arch, "bf16", context),
    )


def _estimates(
    arch: ModelArch, teacher: ModelArch | None, run: TrainSettings, cluster: str
) -> list[Estimate]:
    workload = Workload(arch, teacher, run.sequence_length, run.global_batch_size)
    nodes = Cluster.parse(cluster)
    if run.parallel.processes == nodes.gpus:
        return [estimate(workload, Layout.of(run), nodes)]
    # a search scores in the layout of its distillations, and scoring wants whole sequences
    return estimates(workload, nodes, whole_sequences=True)


def distillation(
    arch: ModelArch, teacher: ModelArch | None, run: TrainSettings, cluster: str
) -> Estimate:
    """Return how `arch` is distilled; `fits` is False if that takes more memory than there is.

    That is in the layout of `run` where it takes all of the cluster, else in the fastest.

    Args:
        teacher: the live one beside it; None where a cache takes its place.
    """
    return _estimates(arch, teacher, run, cluster)[0]


def hours(arch: ModelArch, teacher: ModelArch | None, run: TrainSettings, cluster: str) -> float:
    """Return the hours of distilling `arch` on all tokens of `run`."""
    return run.tokens / distillation(arch, teacher, run, cluster).tokens_per_second / 3600


@dataclass(frozen=True)
class Breach:
    """A limit that a model breaks: its name in `Limits`, the model's figure, the limit's."""

    limit: str
    value: float
    bound: float
    words: str


def breaches(
    arch: ModelArch, teacher: ModelArch | None, limits: Limits, run: TrainSettings
) -> list[Breach]:
    """Return the limits that a model breaks; none if it keeps to all.

    Args:
        run: the whole distillation of `arch`, with a live `teacher` or without, whose GPU-hours
            may be limited.
    """
    return [
        _breach(limits, name, value, getattr(limits, name))
        for name, value in _figures(arch, teacher, limits, run)
        if _is_broken(limits, name, value)
    ]


def misfit(
    arch: ModelArch, teacher: ModelArch | None, limits: Limits, run: TrainSettings
) -> list[Breach]:
    """Return that the distillation does not fit the memory of `limits.cluster`, if so."""
    found = _estimates(arch, teacher, run, limits.cluster)
    if found[0].fits:
        return []
    least = min(estimate.memory_bytes for estimate in found)
    room = (1 - MARGIN) * Cluster.parse(limits.cluster).device.memory_bytes
    return [_breach(limits, "cluster", least / 1e9, room / 1e9)]


def use(arch: ModelArch, teacher: ModelArch | None, limits: Limits, run: TrainSettings) -> float:
    """Return what share of its tightest upper limit a model uses; infinite if it breaks any."""
    shares = [0.0]
    for name, value in _figures(arch, teacher, limits, run):
        if _is_broken(limits, name, value):
            return math.inf
        if name in _MOST:
            shares.append(value / getattr(limits, name))
    return max(shares)


def _figures(
    arch: ModelArch, teacher: ModelArch | None, limits: Limits, run: TrainSettings
) -> Iterator[tuple[str, float]]:
    """Yield every limit that is given and the model's figure in its unit, the dearest last."""
    found = cost(arch, limits)
    figures = {
        "max_parameters": found.parameters,
        "min_parameters": found.parameters,
        "max_memory_gb": found.memory_bytes / 1e9,
        "max_milliseconds": 1e3 * found.seconds_per_token,
    }
    yield from ((name, value) for name, value in figures.items() if getattr(limits, name))
    if limits.max_gpu_hours:
        gpus = Cluster.parse(limits.cluster).gpus
        yield "max_gpu_hours", gpus * hours(arch, teacher, run, limits.cluster)


def _is_broken(limits: Limits, name: str, value: float) -> bool:
    bound: float = getattr(limits, name)
    return value > bound if name in _MOST else value < bound


def _breach(limits: Limits, name: str, value: float, bound: float) -> Breach:
    return Breach(name, value, bound, _WORDS[name].format(**vars(limits), value=value, bound=bound))
