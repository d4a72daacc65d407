"""``bielik launch preflight``: is this allocation fit for the long job, and what will that cost?

It runs on the job's own ranks, with the job's own settings: who is there, how fast they talk to
each other, and a few real steps whose time gives hours and GPU-hours. Exit status 0 says go.
"""

import dataclasses
import itertools
import os
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.stage import DistillConfig, distill
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import sibling
from nemo_bielik.planner.training_memory import Layout, Workload, peak_memory
from nemo_bielik.training import TrainConfig, train

_GO, _NO_GO = 0, 1
#: Steps before the measured ones: memory is allocated and kernels are chosen in them.
_WARMUP_STEPS = 2


@dataclass(kw_only=True)
class PreflightSettings:
    """What is measured, and what would be a reason not to go."""

    iters: int = field(default=5, metadata={"help": "steps that are timed"})
    megabytes: int = field(default=64, metadata={"help": "message of the all-reduce"})
    min_gb_per_second: float = field(
        default=0.0, metadata={"help": "least bus bandwidth of the all-reduce; 0: any"}
    )
    max_hours: float = field(default=0.0, metadata={"help": "longest run that is fine; 0: any"})
    max_memory: float = field(
        default=0.95, metadata={"help": "largest share of a GPU's memory that may be taken"}
    )

    def __post_init__(self) -> None:
        if self.iters < 1 or self.megabytes < 1:
            raise ConfigError("preflight.iters and preflight.megabytes must be at least 1")
        if not 0 < self.max_memory <= 1:
            raise ConfigError(f"preflight.max_memory is {self.max_memory}; it must be in (0, 1]")


@dataclass(kw_only=True)
class PreflightTrainConfig(TrainConfig):
    """A training's settings, and how they are tried; `output` is not touched."""

    preflight: PreflightSettings = field(default_factory=PreflightSettings)


@dataclass(kw_only=True)
class PreflightDistillConfig(DistillConfig):
    """A distillation's settings, and how they are tried; `output` is not touched."""

    preflight: PreflightSettings = field(default_factory=PreflightSettings)


@dataclass(frozen=True)
class Cost:
    """What a run of so many steps takes."""

    step_seconds: float
    tokens_per_second: float
    hours: float
    gpu_hours: float


def preflight_train(config: PreflightTrainConfig) -> int:
    """Try a training; return 0 to go, 1 not to."""
    return _preflight(config, TrainConfig, train)


def preflight_distill(config: PreflightDistillConfig) -> int:
    """Try a distillation; return 0 to go, 1 not to."""
    return _preflight(config, DistillConfig, distill)


def _preflight(config: Any, kind: type, stage: Callable[[Any], None]) -> int:
    from nemo_bielik.megatron.callbacks import read_metrics
    from nemo_bielik.megatron.preflight import gather_ranks, gather_use

    trial = short_run(config, kind)
    speaks = os.environ.get("RANK", "0") == "0"
    if speaks:
        for place in (trial.output, sibling(trial.output, "work")):
            shutil.rmtree(place, ignore_errors=True)
    ranks, bandwidth = gather_ranks(config.preflight.megabytes)
    if speaks:
        print(*describe_ranks(ranks), describe_bandwidth(bandwidth, len(ranks)), sep="\n")
        sys.stdout.flush()
    stage(trial)
    used = gather_use()
    shares = [taken / total for taken, total in used]
    if not speaks:
        return _GO
    times = [line["seconds"] for line in read_metrics(trial.output / "training" / "metrics.jsonl")]
    shutil.rmtree(trial.output)
    found = cost(times, config)
    most = max(shares, default=0.0)
    reasons = differences(ranks) + reasons_against(config.preflight, bandwidth, found, most)
    lines = describe_memory(used, planned_memory(config)) if used else []
    print(*describe_cost(found, config), *lines, sep="\n")
    print("GO" if not reasons else "NO GO: " + "; ".join(reasons))
    return _NO_GO if reasons else _GO


def short_run(config: Any, kind: type) -> Any:
    """Return the stage's settings with a few steps, nothing saved, and an output of its own."""
    values = {part.name: getattr(config, part.name) for part in dataclasses.fields(kind)}
    iters = _WARMUP_STEPS + config.preflight.iters
    optim = dataclasses.replace(
        config.optim, warmup_iters=min(config.optim.warmup_iters, iters - 1)
    )
    changes = {"iters": iters, "optim": optim, "output": sibling(config.output, "preflight")}
    changes |= {"eval_interval": 0, "save_interval": 0, "keep": "last", "validation_data": None}
    changes |= {"stop_after": None}
    # a checkpoint to roll back to is not there yet
    stability = dataclasses.replace(config.stability, policy="stop")
    return kind(**(values | changes | {"stability": stability}))


def cost(times: list[float], config: TrainConfig) -> Cost:
    """Return what `config` takes; `times` are the seconds since the start after each step."""
    steps = [after - before for before, after in itertools.pairwise(times)]
    step = statistics.median(steps[_WARMUP_STEPS - 1 :])
    hours = step * config.iters / 3600
    return Cost(
        step_seconds=step,
        tokens_per_second=config.global_batch_size * config.sequence_length / step,
        hours=hours,
        gpu_hours=hours * config.parallel.processes,
    )


def reasons_against(
    limits: PreflightSettings, bandwidth: float, found: Cost, memory: float
) -> list[str]:
    """Return why not to go; none if all is well.

    Args:
        bandwidth: bus bandwidth in GB/s; 0 if there is one rank.
        memory: largest share of a GPU's memory that was taken; 0 on CPUs.
    """
    reasons = []
    if bandwidth and bandwidth < limits.min_gb_per_second:
        reasons.append(f"{bandwidth:.1f} GB/s between ranks, below {limits.min_gb_per_second:g}")
    if limits.max_hours and found.hours > limits.max_hours:
        reasons.append(f"{found.hours:.1f} hours, above {limits.max_hours:g}")
    if memory > limits.max_memory:
        reasons.append(f"{memory:.0%} of a GPU's memory, above {limits.max_memory:.0%}")
    return reasons


def differences(ranks: list[dict[str, Any]]) -> list[str]:
    """Return what ranks do not share and should: kind of device, versions of packages."""
    parts = {"devices": {rank["device"] for rank in ranks}}
    parts |= {name: {rank["versions"][name] for rank in ranks} for name in ranks[0]["versions"]}
    return [f"{name} differ: {sorted(found)}" for name, found in parts.items() if len(found) > 1]


def describe_ranks(ranks: list[dict[str, Any]]) -> list[str]:
    """Return one line a host, and one more for every version that ranks do not share."""
    hosts = sorted({rank["host"] for rank in ranks})
    lines = []
    for host in hosts:
        devices = [rank["device"] for rank in ranks if rank["host"] == host]
        lines.append(f"{host}: {len(devices)} ranks, {', '.join(sorted(set(devices)))}")
    for name in ranks[0]["versions"]:
        found = sorted({rank["versions"][name] for rank in ranks})
        lines.append(f"{name}: {found[0]}" if len(found) == 1 else f"{name}: DIFFERS, {found}")
    return lines


def describe_bandwidth(bandwidth: float, ranks: int) -> str:
    """Return the line about the all-reduce."""
    if ranks == 1:
        return "all-reduce: one rank, nothing to measure"
    return f"all-reduce over {ranks} ranks: {bandwidth:.2f} GB/s bus bandwidth"


def describe_cost(found: Cost, config: TrainConfig) -> list[str]:
    """Return the lines about time."""
    return [
        f"step: {found.step_seconds:.3f} s, {found.tokens_per_second:,.0f} tokens/s",
        f"{config.iters:,} steps ({config.tokens:,} tokens): {found.hours:.2f} hours on "
        f"{config.parallel.processes} ranks = {found.gpu_hours:.2f} GPU-hours (rank-hours on CPUs)",
    ]


def planned_memory(config: TrainConfig) -> float | None:
    """Return the bytes that `bielik plan` expects torch to take on the fullest GPU.

    What CUDA and NCCL take beside it is left out, as torch does not count it. None where the
    planner has no figures: it knows bf16 and trains every weight.
    """
    if config.precision != "bf16" or config.lora.rank:
        return None
    teacher = getattr(config, "teacher", None)
    workload = Workload(
        Checkpoint.open(config.model).arch,
        Checkpoint.open(teacher).arch if teacher is not None else None,
        config.longest_sequence,
        config.global_batch_size,
    )
    parts = peak_memory(workload, Layout.of(config))
    return sum(parts.values()) - parts["context"]


def describe_memory(used: list[tuple[int, int]], planned: float | None) -> list[str]:
    """Return the line about memory: what every GPU's torch took of how much, beside the plan."""
    shares = [taken / total for taken, total in used]
    most = max(taken for taken, _ in used)
    told = f"; planned: {planned / 1e9:.1f} GB" if planned else ""
    taken = f"{min(shares):.0%} to {max(shares):.0%}, at most {most / 1e9:.1f} GB"
    return [f"GPU memory taken: {taken}{told}"]
