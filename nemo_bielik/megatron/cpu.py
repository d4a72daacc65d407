"""Run Megatron where there is no CUDA: same code, gloo instead of NCCL. Inert on a GPU machine.

Megatron-Core and Megatron-Bridge name CUDA outright in many places. `cpu_runtime()` answers them
on the CPU while it is entered and puts everything back afterwards. Every patch here goes the day
upstream honours ``allow_no_cuda`` throughout.
"""

import collections
import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

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
            *_distributed_patches(),
            *_megatron_patches(),
        ]:
            stack.enter_context(_patched(owner, name, replacement))
        stack.enter_context(_DeviceRewrite())
        yield


@contextlib.contextmanager
def _patched(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


class _DeviceRewrite(TorchFunctionMode):
    """Send every tensor that is asked for on CUDA to the CPU."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.cuda, torch.Tensor.pin_memory):
            return args[0]
        if func is torch.Tensor.type and len(args) == 1:
            # Megatron compares with "torch.cuda.FloatTensor" and friends
            return func(*args, **kwargs).replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.to and any(_names_cuda(arg) for arg in args[1:]):
            args = tuple(CPU if _names_cuda(arg) else arg for arg in args)
        device = kwargs.get("device")
        if _names_cuda(device) or (isinstance(device, int) and not isinstance(device, bool)):
            kwargs = {**kwargs, "device": CPU}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        return func(*args, **kwargs)


def _names_cuda(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).startswith("cuda")


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

    def contiguous_scatter(tensor: Any, tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        # gloo sends the raw storage of strided tensors: wrong weights without an error
        tensors = [part.contiguous() for part in tensors] if tensors else tensors
        return scatter(tensor, tensors, *args, **kwargs)

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
