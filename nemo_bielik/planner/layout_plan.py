"""``bielik plan --cluster``: the layouts of a training on a cluster, and the one to take."""

import json as json_format
import math
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig, check_sizes
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.layouts import MARGIN, Estimate, estimates
from nemo_bielik.planner.specs import resolve_arch
from nemo_bielik.planner.table import align
from nemo_bielik.planner.training_memory import Workload
from nemo_bielik.planner.training_time import EFFICIENCY

_CONTEXT_NOTE = """
parallel.context attends by a kernel that takes a mask, of whose speed no GPU has told yet; here it
counts as fast as any other product. Measure a step of it, and of the best layout without, first."""


@dataclass(kw_only=True)
class LayoutPlanConfig:
    """Memory, speed and cost of every legal layout of a training on a cluster.

    An estimate from sizes and data sheets: nothing is run, and no GPU of ours has confirmed it yet.
    """

    cluster: str = field(metadata={"help": "nodes x GPUs x name, e.g. 2x8xH200 or 8xH100"})
    student: str = field(
        default=BIELIK_MINITRON_7B.name, metadata={"help": "the model that is trained"}
    )
    teacher: str = field(
        default=BIELIK_11B_V3.name, metadata={"help": "the model it is distilled from"}
    )
    distill: bool = field(
        default=True,
        metadata={"help": "beside its teacher; --no-distill: on labels, or from a cached teacher"},
    )
    sequence_length: int = field(default=4096, metadata={"help": "tokens a sequence"})
    global_batch_size: int = field(default=768, metadata={"help": "sequences a step"})
    tokens: float = field(default=25e9, metadata={"help": "tokens to train on, for the cost"})
    efficiency: float = field(
        default=EFFICIENCY, metadata={"help": "share of the peak that matrix products reach"}
    )
    top: int = field(default=10, metadata={"help": "layouts to show"})
    json: bool = field(default=False, metadata={"help": "print one JSON object, with all layouts"})

    def __post_init__(self) -> None:
        for name in ("sequence_length", "global_batch_size", "tokens", "top"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not math.isfinite(self.tokens):
            raise ConfigError(f"tokens is {self.tokens}; it must be a finite number")
        if not 0 < self.efficiency <= 1:
            raise ConfigError(f"efficiency is {self.efficiency}; it must be above 0, at most 1")

    def workload(self) -> Workload:
        """Return what is to be trained; raise `ConfigError` for sequences beyond a model's."""
        student = resolve_arch(self.student)
        teacher = resolve_arch(self.teacher) if self.distill else None
        for arch in (student, teacher):
            if arch is not None:
                check_sizes(ParallelConfig(), self.sequence_length, arch)
        return Workload(student, teacher, self.sequence_length, self.global_batch_size)


def print_layouts(config: LayoutPlanConfig) -> int:
    """Print the plan; return 1 if no layout fits."""
    cluster = Cluster.parse(config.cluster)
    found = estimates(config.workload(), cluster, config.efficiency)
    chosen = found[0] if found[0].fits else None
    if config.json:
        print(json_format.dumps(_plan(config, cluster, found), indent=2))
    else:
        print(_table(config, cluster, found[: config.top]))
        print("\n" + reason(found, cluster))
    return 0 if chosen else 1


def reason(found: list[Estimate], cluster: Cluster) -> str:
    """Return which layout to take and why, or what the best one lacks."""
    room = (1 - MARGIN) * cluster.device.memory_bytes
    best, layout = found[0], found[0].layout
    if not best.fits:
        least = min(found, key=lambda estimate: estimate.memory_bytes)
        return (
            f"Nothing fits: the leanest layout takes {_giga(least.memory_bytes)} of "
            f"{_giga(room)} a {cluster.device.name}; use more GPUs or shorter sequences"
        )
    name = (
        f"parallel.tensor={layout.tensor} parallel.pipeline={layout.pipeline} "
        f"parallel.context={layout.context} parallel.data={layout.data} "
        f"parallel.sequence={str(layout.sequence).lower()} "
        f"micro_batch_size={layout.micro_batch_size}"
        + (" recompute=true" if layout.recompute else "")
    )
    fitting = sum(estimate.fits for estimate in found)
    return (
        f"Take {name}\n"
        f"the fastest of {fitting} layouts that fit (of {len(found)} legal ones), with "
        f"{_giga(best.memory_bytes)} of {_giga(cluster.device.memory_bytes)} used, {MARGIN:.0%} "
        f"of which must stay free\n{_parts(best)}" + (_CONTEXT_NOTE if layout.context > 1 else "")
    )


def _parts(estimate: Estimate) -> str:
    """Return the line about what takes the memory of the fullest GPU."""
    sizes = [f"{name} {_giga(size)}" for name, size in estimate.memory.items() if size]
    return f"on the fullest GPU: {', '.join(sizes)}"


def _plan(config: LayoutPlanConfig, cluster: Cluster, found: list[Estimate]) -> dict[str, Any]:
    rows = [{**estimate.row(), **_cost(config, cluster, estimate)} for estimate in found]
    return {
        "cluster": config.cluster,
        "gpus": cluster.gpus,
        "memory_bytes_per_gpu": cluster.device.memory_bytes,
        "chosen": rows[0] if found[0].fits else None,
        "layouts": rows,
    }


def _cost(config: LayoutPlanConfig, cluster: Cluster, estimate: Estimate) -> dict[str, float]:
    hours = config.tokens / estimate.tokens_per_second / 3600
    return {"hours": round(hours, 2), "gpu_hours": round(hours * cluster.gpus, 1)}


def _table(config: LayoutPlanConfig, cluster: Cluster, found: list[Estimate]) -> str:
    head = ["TP", "PP", "CP", "DP", "micro", "recompute"]
    head += ["GB a GPU", "bubble", "tokens/s", "GPU-hours"]
    rows = []
    for estimate in found:
        layout, cost = estimate.layout, _cost(config, cluster, estimate)
        axes = (layout.tensor, layout.pipeline, layout.context, layout.data)
        rows.append(
            [
                *map(str, (*axes, layout.micro_batch_size)),
                "full" if layout.recompute else "none",
                f"{estimate.memory_bytes / 1e9:.1f}" + ("" if estimate.fits else " (no)"),
                f"{estimate.bubble:.1%}",
                f"{estimate.tokens_per_second:,.0f}",
                f"{cost['gpu_hours']:,.0f}",
            ]
        )
    teacher = f" from {config.teacher}" if config.distill else ""
    title = (
        f"{config.student}{teacher} on {config.cluster}, {config.global_batch_size} × "
        f"{config.sequence_length:,} tokens a step, {config.tokens / 1e9:g} billion in all"
    )
    return f"{title}\n{align(head, rows)}"


def _giga(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
