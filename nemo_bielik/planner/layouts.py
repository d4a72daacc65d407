"""Every legal way to split a training over a cluster, what each takes, and which one to use."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.training_memory import Layout, Workload, peak_memory
from nemo_bielik.planner.training_time import EFFICIENCY, bubble, step_seconds

_SPLIT_BY_TENSOR = ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "vocab_size")
#: Share of a GPU's memory that a plan leaves free: what it reckons with is not measured yet.
MARGIN = 0.1


@dataclass(frozen=True)
class Estimate:
    """A layout with what it takes: bytes on the fullest GPU by part, seconds a step."""

    layout: Layout
    memory: dict[str, float]
    step_seconds: float
    bubble: float
    tokens_per_second: float
    fits: bool

    @property
    def memory_bytes(self) -> float:
        """Bytes on the fullest GPU."""
        return sum(self.memory.values())

    def row(self) -> dict[str, Any]:
        """Return plain values, for machines."""
        return {
            **asdict(self.layout),
            "memory_bytes": round(self.memory_bytes),
            "memory_parts": {name: round(size) for name, size in self.memory.items()},
            "bubble": round(self.bubble, 4),
            "step_seconds": round(self.step_seconds, 4),
            "tokens_per_second": round(self.tokens_per_second),
            "fits": self.fits,
        }


def estimates(
    workload: Workload,
    cluster: Cluster,
    efficiency: float = EFFICIENCY,
    whole_sequences: bool = False,
) -> list[Estimate]:
    """Return every legal layout, those that fit first, the fastest first.

    With `whole_sequences` only those in which ranks share none. Raises `ConfigError` if there is
    no layout.
    """
    found = [
        estimate(workload, layout, cluster, efficiency)
        for layout in legal(workload, cluster)
        if layout.context == 1 or not whole_sequences
    ]
    if not found:
        raise ConfigError(
            f"no layout splits {cluster.gpus} GPUs for batches of {workload.global_batch_size} "
            f"sequences of {workload.sequence_length}; choose a global batch that is a multiple "
            "of the GPUs, or fewer GPUs"
        )
    return sorted(found, key=_preference)


def legal(workload: Workload, cluster: Cluster) -> Iterator[Layout]:
    """Yield the layouts that the engine takes.

    Tensor and context ranks stay within a node; micro-batches are whole; with several pipeline
    stages packing wants one sequence a micro-batch.
    """
    for tensor, context in _within_a_node(workload, cluster.gpus_per_node):
        for pipeline in _divisors(cluster.gpus // (tensor * context)):
            if any(pipeline > arch.num_layers for arch in _models(workload)):
                continue
            data = cluster.gpus // (tensor * context * pipeline)
            for micro in _micro_batch_sizes(workload, data, pipeline):
                for recompute in (False, True):
                    yield Layout(tensor, pipeline, data, micro, tensor > 1, recompute, context)


def _within_a_node(workload: Workload, gpus: int) -> Iterator[tuple[int, int]]:
    for tensor in _divisors(gpus):
        if splits_evenly(workload, tensor):
            for context in _divisors(gpus // tensor):
                # a context rank has two equal pieces of every sequence, which tensor ranks share
                if context == 1 or workload.sequence_length % (2 * context * tensor) == 0:
                    yield tensor, context


def splits_evenly(workload: Workload, tensor: int) -> bool:
    """Whether all that `tensor` ranks share, the sequence too, divides by their number."""
    sizes = [getattr(arch, name) for arch in _models(workload) for name in _SPLIT_BY_TENSOR]
    return all(size % tensor == 0 for size in (*sizes, workload.sequence_length))


def _models(workload: Workload) -> list[ModelArch]:
    return [arch for arch in (workload.student, workload.teacher) if arch is not None]


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _micro_batch_sizes(workload: Workload, data: int, pipeline: int) -> list[int]:
    if workload.global_batch_size % data:
        return []
    share = workload.global_batch_size // data
    return [1] if pipeline > 1 else [size for size in (1, 2, 4, 8) if share % size == 0]


def estimate(
    workload: Workload, layout: Layout, cluster: Cluster, efficiency: float = EFFICIENCY
) -> Estimate:
    """Return what one layout takes; it need not be one that `legal` yields."""
    memory = peak_memory(workload, layout)
    seconds = step_seconds(workload, layout, cluster, efficiency)
    return Estimate(
        layout=layout,
        memory=memory,
        step_seconds=seconds,
        bubble=bubble(workload, layout),
        tokens_per_second=workload.global_batch_size * workload.sequence_length / seconds,
        fits=sum(memory.values()) <= (1 - MARGIN) * cluster.device.memory_bytes,
    )


def _preference(estimate: Estimate) -> tuple[bool, float, int]:
    """Those that fit, then the fastest, then the simplest."""
    ranks = estimate.layout.tensor * estimate.layout.pipeline * estimate.layout.context
    return (not estimate.fits, -estimate.tokens_per_second, ranks)
