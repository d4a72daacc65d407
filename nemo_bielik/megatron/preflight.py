"""What ranks can say of themselves and of the links between them."""

import os
import socket
import time
from importlib import metadata
from typing import Any

import torch
import torch.distributed as dist

from nemo_bielik.megatron.cpu import on_cpu
from nemo_bielik.megatron.model import distributed_session

_PACKAGES = ("nemo-bielik", "torch", "megatron-core", "megatron-bridge", "transformer-engine")
_REPEATS = 5


def gather_ranks(megabytes: int) -> tuple[list[dict[str, Any]], float]:
    """Return what every rank is, and the bus bandwidth of an all-reduce in GB/s (1e9 bytes).

    Every rank calls it; the process group that it joins is left again.
    """
    with distributed_session():
        ranks = _gathered(_self())
        bandwidth = _bus_bandwidth(megabytes) if len(ranks) > 1 else 0.0
    _next_port()
    return ranks, bandwidth


def gather_use() -> list[tuple[int, int]]:
    """Return for every rank the bytes that torch took at most and its GPU's; none on CPUs."""
    if on_cpu():
        return []
    _next_port()
    with distributed_session():
        device = torch.cuda.current_device()
        total = torch.cuda.get_device_properties(device).total_memory
        return _gathered((torch.cuda.max_memory_reserved(device), total))


def _self() -> dict[str, Any]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    if on_cpu():
        return {"host": socket.gethostname(), "device": "CPU (gloo)", "versions": versions}
    versions["CUDA"] = str(torch.version.cuda)
    versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    described = f"{device.name} ({device.total_memory / 2**30:.0f} GiB)"
    return {"host": socket.gethostname(), "device": described, "versions": versions}


def _gathered(value: Any) -> list[Any]:
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def _bus_bandwidth(megabytes: int) -> float:
    """Every byte crosses the slowest link 2 (n - 1) / n times, as nccl-tests counts it."""
    ranks = dist.get_world_size()
    device = "cpu" if on_cpu() else "cuda"
    message = torch.zeros(megabytes * 250_000, dtype=torch.float32, device=device)
    dist.all_reduce(message)
    _wait(device)
    started = time.perf_counter()
    for _ in range(_REPEATS):
        dist.all_reduce(message)
    _wait(device)
    seconds = torch.tensor((time.perf_counter() - started) / _REPEATS, device=device)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return 2 * (ranks - 1) / ranks * megabytes * 1e6 / seconds.item() / 1e9


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    dist.barrier()


def _next_port() -> None:
    """Meet at another port next time, and at a store of our own rather than torchrun's.

    The last rank to leave may still hold the old port, and torchrun's store still holds the
    addresses of the group that was left.
    """
    if "MASTER_PORT" in os.environ:
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
