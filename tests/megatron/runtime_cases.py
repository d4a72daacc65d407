"""Functions for the lanes: batches, the CPU runtime, upstream fixes; they return plain values."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_bielik.parallel import ParallelConfig

# --- batches


def masks(position_ids: list[Tensor]) -> list[Tensor]:
    """Return the dense mask of every batch, True where a query must not see a key."""
    from nemo_bielik.megatron.batches import document_mask

    return [document_mask(positions) for positions in position_ids]


def packings(position_ids: list[Tensor]) -> list[dict[str, Any]]:
    """Return what the packed kernels are told of every batch."""
    from nemo_bielik.megatron.batches import packed_sequences

    fields = ("qkv_format", "cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv")
    found = [packed_sequences(positions) for positions in position_ids]
    return [{name: getattr(packing, name) for name in fields} for packing in found]


def provided(
    train: Path, validation: Path | None, cache: Path, length: int, eval_samples: int, asked: int
) -> dict[str, Tensor | None]:
    """Return the token rows of both datasets that Bridge gets when it asks for `asked` each."""
    from megatron.bridge.training.config import DatasetBuildContext

    from nemo_bielik.megatron.batches import PackedText

    provider = PackedText(
        train=[train],
        validation=validation,
        cache=cache,
        seq_length=length,
        seed=1,
        samples=asked,
        eval_samples=eval_samples,
        vocab_size=48,
    )
    datasets = provider.build_datasets(DatasetBuildContext(asked, asked, 0))
    names = ("train", "validation", "test")
    return {
        name: dataset and torch.stack([dataset[n]["tokens"] for n in range(len(dataset))])
        for name, dataset in zip(names, datasets, strict=True)
    }


def logits_of_packed(
    model: Path, parallel: ParallelConfig, tokens: Tensor, positions: Tensor
) -> Tensor | None:
    """Return the Megatron model's logits [b, s, vocab] of packed rows, on the last stage."""
    from engine_cases import whole_logits

    from nemo_bielik.megatron.model import inference_model

    with inference_model(model, parallel, tokens.size(1)) as (_, chunks):
        return whole_logits(chunks, tokens, positions)


# --- the CPU runtime

_PATCHED_MODULES = (
    "torch",
    "torch.cuda",
    "torch.cuda.random",
    "torch.distributed",
    "megatron.core.tensor_parallel.random",
    "megatron.bridge.training.initialize",
    "megatron.bridge.training.setup",
)


class _ExpectedError(Exception):
    pass


def attributes() -> dict[str, Any]:
    """Return every attribute that the CPU runtime may touch, and all their neighbours."""
    found = {
        f"{name}.{attribute}": value
        for name in _PATCHED_MODULES
        for attribute, value in vars(importlib.import_module(name)).items()
        if not attribute.startswith("__")
    }
    for owner in (torch.Tensor, torch.nn.Module):
        for attribute in dir(owner):
            if not attribute.startswith("__"):
                found[f"{owner.__name__}.{attribute}"] = getattr(owner, attribute)
    return found


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of attributes that were replaced, added or removed."""
    missing = object()
    names = sorted(before.keys() | after.keys())
    return [name for name in names if before.get(name, missing) is not after.get(name, missing)]


def replaced(how: str) -> tuple[list[str], list[str]]:
    """Return the attributes that differ within the runtime and after it.

    Args:
        how: "left" as usual, by an "error", "twice", or on a machine with "CUDA".
    """
    from nemo_bielik.megatron import cpu

    before, on_cpu = attributes(), cpu.on_cpu
    if how == "CUDA":
        cpu.on_cpu = lambda: False
    try:
        with cpu.cpu_runtime():
            if how == "twice":
                with cpu.cpu_runtime():
                    pass
            within = differing(before, attributes())
            if how == "error":
                raise _ExpectedError
    except _ExpectedError:
        pass
    finally:
        cpu.on_cpu = on_cpu
    return within, differing(before, attributes())


def landings() -> dict[str, str]:
    """Ask for CUDA in every way that Megatron does; return the type of device each gave."""
    from nemo_bielik.megatron.cpu import cpu_runtime

    ones = torch.ones(2)
    with cpu_runtime():
        tensors = {
            "empty cuda": torch.empty(1, device="cuda"),
            "zeros cuda:1": torch.zeros(1, device="cuda:1"),
            "ones integer": torch.ones(1, device=0),
            "full integer": torch.full((1,), 2.0, device=3),
            "tensor torch.device": torch.tensor([1], device=torch.device("cuda")),
            "arange current": torch.arange(3, device=torch.cuda.current_device()),
            "rand cuda": torch.rand(1, device="cuda"),
            "empty_like": torch.empty_like(ones, device="cuda"),
            "zeros_like": torch.zeros_like(ones, device=0),
            "new_zeros": ones.new_zeros(1, device="cuda"),
            "new_tensor": ones.new_tensor([1.0], device=0),
            "to name": ones.to("cuda"),
            "to keyword": ones.to(device="cuda", dtype=torch.float64),
            "to integer keyword": ones.to(device=0),
            "to torch.device": ones.to(torch.device("cuda", 0), torch.float64),
            "to current": ones.to(torch.cuda.current_device()),
            "cuda": ones.cuda(),
            "cuda integer": ones.cuda(0, non_blocking=True),
            "pinned": torch.empty(1, pin_memory=True),
            "pin_memory": ones.pin_memory(),
            "Module.cuda": next(torch.nn.Linear(1, 1).cuda().parameters()),
            "Module.cuda integer": next(torch.nn.Linear(1, 1).cuda(0).parameters()),
            "Module.to": next(torch.nn.Linear(1, 1).to("cuda").parameters()),
            "Module device": next(torch.nn.Linear(1, 1, device="cuda").parameters()),
            "meta": torch.empty(1, device="meta"),
            "to meta": ones.to("meta"),
        }
        with torch.device("meta"):
            tensors["meta block"] = torch.empty(1)
    with torch.device("meta"):
        tensors["meta block afterwards"] = torch.empty(1)
    return {name: tensor.device.type for name, tensor in tensors.items()}


def values_kept() -> dict[str, tuple[Any, Any]]:
    """Return (found, expected) of calls whose arguments the runtime must pass on."""
    from nemo_bielik.megatron.cpu import cpu_runtime

    ones = torch.ones(2)
    with cpu_runtime():
        seed = torch.cuda.get_rng_state()
        first = torch.rand(3)
        torch.cuda.set_rng_state(seed)
        return {
            "dtype": (torch.zeros(2, dtype=torch.int16, device="cuda").dtype, torch.int16),
            "gradient": (torch.zeros(2, device=0, requires_grad=True).requires_grad, True),
            "fill": (torch.full((2,), 7, device="cuda").tolist(), [7, 7]),
            "to dtype": (ones.to("cuda", torch.float64).dtype, torch.float64),
            "to other": (ones.to(torch.zeros(1, dtype=torch.int8)).dtype, torch.int8),
            "type name": (ones.type(), "torch.cuda.FloatTensor"),
            "type change": (ones.type(torch.float64).dtype, torch.float64),
            "random state": (torch.rand(3).tolist(), first.tolist()),
        }


def groups_asked_for_on_nccl() -> list[str]:
    """Return the backends of a world and a group of one, asked for on NCCL."""
    from nemo_bielik.megatron.cpu import cpu_runtime

    with cpu_runtime():
        dist.init_process_group(
            "nccl",
            store=dist.HashStore(),
            rank=0,
            world_size=1,
            device_id=torch.device("cuda", 0),
        )
        try:
            group = dist.new_group([0], backend="nccl")
            return [dist.get_backend(), dist.get_backend(group)]
        finally:
            dist.destroy_process_group()


def exchanged() -> dict[str, Tensor]:
    """Scatter strided columns of a matrix from rank 1 and gather a scalar from every rank."""
    from nemo_bielik.megatron.model import distributed_session

    with distributed_session():
        rank = dist.get_rank()
        matrix = torch.arange(12.0).view(3, 4)
        column = torch.empty(3)
        dist.scatter(column, list(matrix[:, :2].unbind(1)) if rank == 1 else None, src=1)
        block = torch.empty(3, 2)
        dist.scatter(block, scatter_list=list(matrix.split(2, dim=1)) if rank == 0 else None)
        scalars = torch.empty(2, dtype=torch.int64)
        dist.all_gather_into_tensor(scalars, torch.tensor(rank + 5))
        dist.barrier(device_ids=[rank])
    return {"column": column, "block": block, "scalars": scalars}


# --- upstream fixes


def without_transformer_engine() -> dict[str, Any]:
    """Import Megatron-Bridge and return what it and Megatron-Core make of the missing package."""
    importlib.import_module("nemo_bielik.megatron")
    importlib.import_module("megatron.bridge")
    core = ("extensions.transformer_engine", "fp8_utils", "models.gpt.gpt_layer_specs")
    found = {name: importlib.import_module(f"megatron.core.{name}").HAVE_TE for name in core}
    return {
        "HAVE_TE": found,
        "loaded": [name for name in sys.modules if name.split(".")[0] == "transformer_engine"],
        "findable": importlib.util.find_spec("transformer_engine") is not None,
    }


def errors_of_use() -> dict[str, str]:
    """Use what stands in for Transformer Engine's classes and return what is said."""
    importlib.import_module("nemo_bielik.megatron")
    lora: Any = importlib.import_module("megatron.bridge.peft.lora_layers")
    spec: Any = importlib.import_module("megatron.bridge.models.gpt_full_te_layer_autocast_spec")
    uses = {
        "named class": lambda: lora.te.Linear(2, 2),
        "nested class": lambda: lora.te.ops.Quantize(forward=True),
        "subclass": lambda: lora.TELinearAdapter(torch.nn.Linear(2, 2)),
        "layer": lambda: spec.TransformerLayer(),
    }
    said = {}
    for name, use in uses.items():
        try:
            use()
        except ImportError as error:
            said[name] = str(error)
    return said


def installed_again() -> tuple[int, int]:
    """Return how many finders `install` adds, called thrice: to none, and to those of this lane."""
    from nemo_bielik.megatron import upstream_fixes

    here = list(sys.meta_path)
    try:
        upstream_fixes.install()
        to_these = len(sys.meta_path) - len(here)
        sys.meta_path[:] = [f for f in here if type(f).__module__ != upstream_fixes.__name__]
        others = len(sys.meta_path)
        for _ in range(3):
            upstream_fixes.install()
        return len(sys.meta_path) - others, to_these
    finally:
        sys.meta_path[:] = here


def shapes_installed_again() -> bool:
    """Return whether a second hook on pipeline shapes leaves Bridge as the first made it."""
    importlib.import_module("nemo_bielik.megatron.teacher")
    from nemo_bielik.megatron.upstream_fixes import install_pipeline_shapes

    train: Any = importlib.import_module("megatron.bridge.training.train")
    evaluation: Any = importlib.import_module("megatron.bridge.training.eval")

    def hooks() -> tuple[Any, Any]:
        adjust = train.get_tensor_shapes_adjust_fn_for_distillation
        return adjust, evaluation.get_forward_backward_func

    install_pipeline_shapes(lambda model: None)
    first = hooks()
    install_pipeline_shapes(lambda model: None)
    return hooks() == first
