"""Run Megatron where there is no CUDA: same code, gloo instead of NCCL. Inert on a GPU machine.

Megatron-Core and Megatron-Bridge name CUDA outright in many places. `cpu_runtime()` answers them
on the CPU while it is entered and puts everything back afterwards. Every patch here goes the day
upstream honours ``allow_no_cuda`` throughout.
"""

import collections
import contextlib
import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._device import _device_constructors

CPU = torch.device("cpu")


def on_cpu() -> bool:
    """Return whether this process has no CUDA device and needs the CPU runtime."""
    return not torch.cuda.is_available()


@contextlib.contextmanager
def cpu_runtime() -> Iterator[None]:
    """Make Megatron run on CPU and gloo within the block; do nothing where CUDA is present."""
    if not on_cpu():
        yield
        return
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in [
            *_cuda_patches(),
            *_tensor_patches(),
            *_distributed_patches(),
            *_megatron_patches(),
            *_nemo_patches(),
        ]:
            stack.enter_context(_patched(owner, name, replacement))
        yield


@contextlib.contextmanager
def _patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _tensor_patches() -> Iterator[tuple[Any, str, Any]]:
    """Send every tensor that is asked for on CUDA to the CPU.

    A `TorchFunctionMode` would do it in one place, but costs 3 µs a call of any torch function: a
    tenth of a small model's step.
    """
    # torch caches the constructors that `with torch.device(...)` acts on: let it see the originals
    constructors = {function.__name__: function for function in _device_constructors()}
    for name in sorted({*constructors, *_LIKE}):
        if hasattr(torch, name):
            yield torch, name, _on_cpu_device(getattr(torch, name))
    for name in _NEW:
        yield torch.Tensor, name, _on_cpu_device(getattr(torch.Tensor, name))
    yield torch.Tensor, "to", _on_cpu_device(torch.Tensor.to)
    yield torch.Tensor, "cuda", lambda self, *args, **kwargs: self
    yield torch.Tensor, "pin_memory", lambda self, *args, **kwargs: self
    yield torch.Tensor, "type", _cuda_type(torch.Tensor.type)


_LIKE = ("empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like")
_NEW = ("new_empty", "new_full", "new_ones", "new_tensor", "new_zeros")


def _on_cpu_device(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "device" in kwargs and _names_cuda(kwargs["device"]):
            kwargs["device"] = CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        if any(_names_cuda(arg) for arg in args if isinstance(arg, str | torch.device)):
            args = tuple(
                CPU if isinstance(arg, str | torch.device) and _names_cuda(arg) else arg
                for arg in args
            )
        return function(*args, **kwargs)

    return call


def _cuda_type(function: Callable[..., Any]) -> Callable[..., Any]:
    """Megatron compares a tensor's type with "torch.cuda.FloatTensor" and friends."""

    def call(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        found = function(self, *args, **kwargs)
        return found.replace("torch.", "torch.cuda.", 1) if isinstance(found, str) else found

    return call


def _names_cuda(device: Any) -> bool:
    if isinstance(device, int):  # the number of a GPU
        return not isinstance(device, bool)
    return isinstance(device, str | torch.device) and str(device).startswith("cuda")


class _NoStream:
    """Stands in for CUDA streams and events, which order nothing on a CPU."""

    device = CPU
    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> "_NoStream":
        return self

    def __exit__(self, *exception: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def _cuda_patches() -> Iterator[tuple[Any, str, Any]]:
    cuda = torch.cuda
    yield cuda, "current_device", lambda: CPU
    for name in (
        "set_device",
        "synchronize",
        "empty_cache",
        "reset_peak_memory_stats",
        "manual_seed",
        "manual_seed_all",
        "set_stream",
        "_lazy_init",
    ):
        yield cuda, name, lambda *args, **kwargs: None
    for name in (
        "memory_allocated",
        "max_memory_allocated",
        "memory_reserved",
        "max_memory_reserved",
    ):
        yield cuda, name, lambda *args, **kwargs: 0
    yield cuda, "memory_stats", lambda *args: collections.defaultdict(int)
    yield cuda, "current_stream", lambda *args: _NoStream()
    yield cuda, "default_stream", lambda *args: _NoStream()
    yield cuda, "Stream", _NoStream
    yield cuda, "Event", _NoStream
    yield cuda, "stream", lambda stream: contextlib.nullcontext()
    yield cuda, "device", lambda *args: contextlib.nullcontext()
    yield cuda, "get_device_properties", lambda *args: _NoStream()
    yield cuda, "get_device_capability", lambda *args: (8, 0)
    for module in (cuda, cuda.random):
        yield module, "get_rng_state", lambda *args: torch.get_rng_state()
        yield module, "set_rng_state", lambda state, *args: torch.set_rng_state(state)
    yield torch.nn.Module, "cuda", lambda self, *args, **kwargs: self


def _distributed_patches() -> Iterator[tuple[Any, str, Any]]:
    init_process_group, new_group, barrier = dist.init_process_group, dist.new_group, dist.barrier
    all_gather, scatter = dist.all_gather_into_tensor, dist.scatter

    def gloo_init(backend: Any = None, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("device_id", None)
        init_process_group("gloo", *args, **kwargs)

    def gloo_group(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("pg_options", None)
        return new_group(*args, **{**kwargs, "backend": "gloo"})

    def plain_barrier(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("device_ids", None)
        return barrier(*args, **kwargs)

    def gather_scalars_too(out: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # gloo refuses the 0-dim inputs that NCCL takes
        return all_gather(out, tensor.reshape(1) if tensor.dim() == 0 else tensor, *args, **kwargs)

    def contiguous_scatter(tensor: Any, scatter_list: Any = None, *args: Any, **kw: Any) -> Any:
        # gloo sends the raw storage of strided tensors: wrong weights without an error
        parts = [part.contiguous() for part in scatter_list] if scatter_list else scatter_list
        return scatter(tensor, parts, *args, **kw)

    yield dist, "init_process_group", gloo_init
    yield dist, "new_group", gloo_group
    yield dist, "barrier", plain_barrier
    yield dist, "all_gather_into_tensor", gather_scalars_too
    yield dist, "scatter", contiguous_scatter


def _megatron_patches() -> Iterator[tuple[Any, str, Any]]:
    core_random = importlib.import_module("megatron.core.tensor_parallel.random")
    yield core_random, "_get_cuda_rng_state", lambda *args, **kwargs: torch.get_rng_state()
    yield (
        core_random,
        "_set_cuda_rng_state",
        lambda state, *args, **kwargs: torch.set_rng_state(state),
    )

    initialize = importlib.import_module("megatron.bridge.training.initialize")
    setup = importlib.import_module("megatron.bridge.training.setup")
    initialize_megatron, set_seed = initialize.initialize_megatron, initialize._set_random_seed

    def initialize_without_cuda(cfg: Any, *args: Any, **kwargs: Any) -> Any:
        return initialize_megatron(cfg, *args, **{**kwargs, "allow_no_cuda": True})

    def seed_tracker_too(seed: int, *args: Any, pg_collection: Any, **kwargs: Any) -> None:
        # upstream seeds Megatron's RNG tracker only where device_count() > 0
        set_seed(seed, *args, pg_collection=pg_collection, **kwargs)
        core_random.model_parallel_cuda_manual_seed(
            seed, force_reset_rng=True, tp_rank=pg_collection.tp.rank(), ep_rank=0, etp_rank=0
        )

    yield setup, "initialize_megatron", initialize_without_cuda
    yield initialize, "_set_random_seed", seed_tracker_too
    # the wheel ships the helpers built, without the Makefile that compile_helpers() runs
    yield initialize, "compile_helpers", lambda: None


def _nemo_patches() -> Iterator[tuple[Any, str, Any]]:
    # NeMo 2.7.3 asks for CUDA to move loaded tensors to its device, with a CPU trainer too
    if checkpoints := sys.modules.get("nemo.lightning.io.pl"):
        yield checkpoints, "_fix_tensors_device", lambda checkpoint: checkpoint
