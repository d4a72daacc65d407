"""Calibration text through a Megatron model: fixed micro-batches, forward passes, hooks.

Shapes: s positions, b samples; Megatron keeps activations as [s, b, ·].
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.bridge import AutoBridge
from megatron.core import parallel_state
from megatron.core.transformer.identity_op import IdentityOp
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nemo_bielik.megatron.batches import next_batch, packed_dataset
from nemo_bielik.megatron.model import inference_model, quiet
from nemo_bielik.megatron.schedule import run_schedule
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.stages import work_directory


@contextlib.contextmanager
def calibration_model(config: ScoreConfig) -> Iterator[tuple[AutoBridge, list[nn.Module], Path]]:
    """Yield the model to look into with its Bridge, and a work directory that every rank sees.

    The engine's chatter goes to a log there; the directory goes when the block has ended well.
    """
    work, rank = work_directory(config.output), os.environ.get("RANK", "0")
    work.mkdir(parents=True, exist_ok=True)
    settings = (config.model, config.parallel, config.sequence_length, config.precision)
    with quiet(work / f"engine.rank{rank}.log"), inference_model(*settings) as (bridge, model):
        yield bridge, model, work
    if rank == "0":
        shutil.rmtree(work)


def calibration_batches(
    config: ScoreConfig, vocab_size: int, cache: Path, done: int = 0
) -> DataLoader[Any]:
    """Return the micro-batches of this data-parallel rank, for `batches.next_batch`.

    Micro-batch i holds samples i·m … i·m + m - 1 whatever the world, and rank r of n takes
    micro-batches r, r + n, …: a layout changes who computes a micro-batch, never what is in it.

    Args:
        cache: directory for Megatron's index files, which every rank must see.
        done: micro-batches, over all ranks, that are left out at the beginning.
    """
    dataset = packed_dataset(
        config.data, config.samples, config.sequence_length, config.seed, vocab_size, cache
    )
    size = config.micro_batch_size
    first = done + parallel_state.get_data_parallel_rank()
    numbers = range(first, config.samples // size, config.parallel.data)
    rows = [list(range(number * size, (number + 1) * size)) for number in numbers]
    return DataLoader(dataset, batch_sampler=rows)


def forward_batches(
    config: ScoreConfig, model: list[nn.Module], batches: Iterable[Any], count: int
) -> None:
    """Run the next `count` of this rank's micro-batches through all pipeline stages, forward only.

    Without gradients; whoever wants the activations has hooks on `model`.

    Args:
        batches: `calibration_batches`, or an iterator over them to go on from where it stands.
    """
    if not count:
        return

    def forward_step(data: Iterator[Any], chunk: nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        output = chunk(**next_batch(data).model_inputs())
        return output, lambda logits: (logits.new_zeros(()), {})

    with torch.inference_mode():
        run_schedule(forward_step, model, batches, count, config)


def on_input(module: nn.Module, add: Callable[[Tensor], None]) -> Any:
    """Hand every input of `module` to `add`; return the hook's handle."""
    return module.register_forward_pre_hook(lambda _, args: add(args[0]))


def on_norm(norm: nn.Module, fused_linear: Any, add: Callable[[Tensor], None]) -> Any:
    """Hand every output of a norm to `add`, also where it is fused into the linear after it.

    Transformer Engine fuses them; `fused_linear` then carries the norm's weight.
    """
    if not isinstance(norm, IdentityOp):
        return norm.register_forward_hook(lambda module, args, output: add(output))
    weight, eps = fused_linear.layer_norm_weight, fused_linear.eps

    def add_normalised(_: nn.Module, args: Any) -> None:
        add(torch.nn.functional.rms_norm(args[0], weight.shape, weight, eps))

    return fused_linear.register_forward_pre_hook(add_normalised)


@contextlib.contextmanager
def attached(handles: Iterable[Any]) -> Iterator[None]:
    """Keep registered hooks for the block and remove them after it."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def without_logits(model: Any) -> Iterator[None]:
    """Let forward passes of an unwrapped GPT model end at the hidden states within the block.

    Statistics of the layers need no logits, whose matrix product and memory are then saved.
    """
    had = model.post_process
    model.post_process = False
    try:
        yield
    finally:
        model.post_process = had
