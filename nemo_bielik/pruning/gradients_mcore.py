"""Collect LLM-Pruner's statistics from backward passes on a Megatron model, in any layout.

Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models" (2023); the report's
equation 6, as `TaylorTable` defines it. Every rank turns the gradients of its own shards into
saliences; Bridge's export, which knows where each shard belongs, then hands them over under
Hugging Face names, tensor by tensor.

Memory beside the model: a gradient and two float32 accumulators for every weight, on the ranks that
hold it. A run that was killed starts again.
"""

import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch import Tensor, nn

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifact_files import Float64
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.model import on_rank_zero
from nemo_bielik.megatron.objectives import NextToken
from nemo_bielik.megatron.schedule import run_schedule
from nemo_bielik.progress import progress
from nemo_bielik.pruning.calibration_mcore import calibration_batches, calibration_model
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.taylor import ORDERS, TAYLOR_NAME, TaylorTable, salience_shapes
from nemo_bielik.stages import stage_output
from nemo_bielik.tensors import TensorRow, split_layer, tensor_rows

Saliences = dict[str, dict[str, Float64]]


def collect(config: ScoreConfig, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Run one backward pass a sample over the calibration text and publish the table.

    Every rank calls it. Raises `ConfigError` unless samples come one at a time, and `DataError` for
    text without a single token to predict or gradients that are no numbers.
    """
    if config.micro_batch_size != 1:
        raise ConfigError(
            f"micro_batch_size is {config.micro_batch_size}; {config.method} needs the gradient of "
            "every sample by itself, so it must be 1"
        )
    started = time.monotonic()
    with calibration_model(config) as (bridge, model, work):
        gradients = SampleGradients(model)
        tokens = _backward_all(config, model, gradients, checkpoint.arch.vocab_size, work / "index")
        gradients.finish(tokens)
        saliences = _by_axis(bridge, model, gradients, checkpoint.arch)

        def publish() -> None:
            table = TaylorTable(
                arch=checkpoint.arch,
                salience=saliences,
                samples=config.samples,
                tokens=tokens,
                model=checkpoint.fingerprint(),
            )
            results: dict[str, Any] = {"samples": config.samples, "tokens": tokens}
            with stage_output(config.output, manifest, results, started=started) as scratch:
                table.save(scratch / TAYLOR_NAME)

        on_rank_zero(publish)


class SampleGradients:
    """Σ_j s_j and Σ_j s_j² of every parameter of this rank, s_j the gradient of sample j's loss.

    `finish` turns them, in place, into the saliences of the first order and with the Fisher term.
    """

    def __init__(self, model: list[nn.Module]) -> None:
        self.model = unwrap_model(model)
        self.parameters = [p for chunk in self.model for p in chunk.parameters()]
        self.first = [_zeros_like(p) for p in self.parameters]
        self.fisher = [_zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def add_sample(self) -> None:
        """Take the gradients of one sample off the parameters."""
        _reduce_partial(self.model)
        for parameter, first, fisher in zip(self.parameters, self.first, self.fisher, strict=True):
            gradient = parameter.grad.to(first)
            first += gradient
            fisher.addcmul_(gradient, gradient)
            parameter.grad = None

    @torch.no_grad()
    def finish(self, tokens: int) -> None:
        """Add up the data-parallel ranks; with T = `tokens`, g = Σ s_j / T and g_j = s_j / √T."""
        group = parallel_state.get_data_parallel_group()
        for parameter, first, fisher in zip(self.parameters, self.first, self.fisher, strict=True):
            dist.all_reduce(first, group=group)
            dist.all_reduce(fisher, group=group)
            weight = parameter.to(first)
            first.mul_(weight).div_(tokens)
            fisher.mul_(weight.square()).div_(-2 * tokens).add_(first).abs_()
            first.abs_()

    def of(self, order: str) -> dict[int, Tensor]:
        """Return the saliences of an order by the identity of their parameter."""
        values = getattr(self, order)
        return {id(p): value for p, value in zip(self.parameters, values, strict=True)}


def _zeros_like(parameter: Tensor) -> Tensor:
    """Return zeros of at least single precision, whatever the weights are kept in."""
    wide = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=wide, requires_grad=False)


def _reduce_partial(model: list[nn.Module]) -> None:
    """Complete what a backward pass leaves in parts on several ranks, as training does.

    Tied embeddings stand on the first and the last pipeline stage; norms see a part of the sequence
    under sequence parallelism, and norms of queries and keys only the rank's own heads.
    """
    tensor_group = parallel_state.get_tensor_model_parallel_group()
    if dist.get_world_size(tensor_group) > 1:
        for chunk in model:
            for name, parameter in chunk.named_parameters():
                split = getattr(parameter, "sequence_parallel", False)
                if split or "q_layernorm" in name or "k_layernorm" in name:
                    dist.all_reduce(parameter.grad, group=tensor_group)
    if parallel_state.get_pipeline_model_parallel_world_size() > 1 and (
        parallel_state.is_rank_in_embedding_group()
    ):
        end: Any = model[0] if parallel_state.is_pipeline_first_stage() else model[-1]
        if end.share_embeddings_and_output_weights:
            shared = end.shared_embedding_or_output_weight().grad
            dist.all_reduce(shared, group=parallel_state.get_embedding_group())


def _backward_all(
    config: ScoreConfig,
    model: list[nn.Module],
    gradients: SampleGradients,
    vocab_size: int,
    index: Path,
) -> int:
    """Run every sample of this rank forward and backward; return the counted tokens of all."""
    batches = calibration_batches(config, vocab_size, index)
    tokens = torch.zeros(1, dtype=torch.long, device=torch.cuda.current_device())
    step = partial(NextToken(), None)
    shown = progress(batches, desc=config.output.name, unit="sample", show=dist.get_rank() == 0)
    for batch in shown:
        run_schedule(step, model, [batch], 1, config, backward=True)
        gradients.add_sample()
        tokens += batch["loss_mask"].sum().to(tokens)
    dist.all_reduce(tokens, group=parallel_state.get_data_parallel_group())
    if not int(tokens):
        raise DataError(f"{config.data}: holds no two tokens of one document; nothing to predict")
    return int(tokens)


def _by_axis(
    bridge: Any, model: list[nn.Module], gradients: SampleGradients, arch: ModelArch
) -> Saliences:
    """Gather the saliences tensor by tensor, summed along every axis. Filled on rank 0 alone."""
    shapes = salience_shapes(arch)
    found = {order: {name: np.zeros(shape) for name, shape in shapes.items()} for order in ORDERS}
    rows = {row.name: row for row in tensor_rows(arch)}
    for order in ORDERS:
        for name, tensor in _exported(bridge, model, gradients.of(order)):
            if dist.get_rank() == 0 and name in rows:
                for entry, row, units in unit_sums(rows[name], tensor, arch.head_dim):
                    found[order][entry][row] = units.numpy()
    return found


def _exported(
    bridge: Any, model: list[nn.Module], values: dict[int, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield `values`, one tensor a parameter, under the names and shapes of a checkpoint.

    A conversion moves elements and changes none, so it serves saliences as it serves weights.
    """
    tasks = [
        dataclasses.replace(task, param_weight=values[id(task.param_weight)])
        if task.param_weight is not None
        else task
        for task in bridge.get_conversion_tasks(model)
    ]
    yield from bridge.export_hf_weights(
        model, cpu=True, show_progress=False, conversion_tasks=tasks
    )


def unit_sums(row: TensorRow, values: Tensor, head_dim: int) -> Iterator[tuple[str, int, Tensor]]:
    """Yield (entry of a `TaylorTable`, its row, [units] in float64) for every axis of a tensor.

    Of a tensor in a layer the sum of everything comes last, as a scalar.
    """
    suffix = split_layer(row.name)[1]
    number = row.layer or 0
    values = values.double()
    for dim, axis in enumerate(row.axes):
        if axis in ("vocab", "head_dim"):  # nothing is cut along these
            continue
        units = values.movedim(dim, 0).flatten(1).sum(1) if values.ndim > 1 else values
        if axis in ("heads", "groups"):
            units = units.view(-1, head_dim).sum(1)
        yield f"{suffix}/{axis}", number, units
    if row.layer is not None:
        yield f"{suffix}/layer", number, values.sum()
