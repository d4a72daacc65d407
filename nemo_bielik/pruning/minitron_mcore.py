"""Collect Minitron's activation statistics and Block Influence from hooks on a Megatron model.

Method: Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation"
(2024), the report's equations 8 and 9, and Men et al., "ShortGPT" (2024), equation 5.

Shapes: s positions, b samples, h hidden, f ffn, d head_dim; Megatron keeps activations as
[s, b, ·]. Every rank fills the part that it computed of full-size float64 sums; an all-reduce over
the world then gives every rank the same table, for every `_BATCHES_A_PART` micro-batches of a rank.
The table so far is kept, so a run that was killed continues from it, on other layouts too.
"""

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch import Tensor, nn

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import require_packable
from nemo_bielik.megatron.model import on_rank_zero
from nemo_bielik.progress import progress
from nemo_bielik.pruning.calibration_mcore import (
    attached,
    calibration_batches,
    calibration_model,
    forward_batches,
    on_input,
    on_norm,
    without_logits,
)
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.stages import claim_work, stage_output

#: After so many micro-batches of a rank the sums of all ranks are added and kept. The places are
#: part of the order of additions, and so of the last bits of a table: no clock decides on them.
_BATCHES_A_PART = 64


class Sums(Protocol):
    """What fills the arrays of a `ScoreTable` while batches run."""

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """Let every forward pass of `model`, this rank's layers, add to the sums in the block."""

    def take(self) -> Mapping[str, Tensor]:
        """Return this rank's sums, full-size and float64, and start again from zero."""


def collect(config: ScoreConfig, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Score by one forward pass over the calibration text and publish the table."""
    collect_sums(config, checkpoint, manifest, ActivationSums)


def collect_sums(
    config: ScoreConfig,
    checkpoint: Checkpoint,
    manifest: Manifest,
    make_sums: Callable[[ModelArch, ScoreConfig], Sums],
) -> None:
    """Run the calibration text through the model and publish what the sums of `make_sums` hold.

    Every rank calls it. Raises `StorageError` if another recipe's unfinished work lies in the way.
    """
    started = time.monotonic()
    require_packable(config.micro_batch_size, config.parallel.pipeline, per_sample=True)
    with calibration_model(config) as (_, model, work):
        on_rank_zero(lambda: claim_work(work, manifest, ignore=("parallel",)))
        sums, layers = make_sums(checkpoint.arch, config), unwrap_model(model)[0]
        with sums.attached(layers), without_logits(layers):
            table = _run(config, checkpoint, model, sums, work)
        on_rank_zero(lambda: _publish(config, manifest, table, started))


def _run(
    config: ScoreConfig, checkpoint: Checkpoint, model: list[nn.Module], sums: Sums, work: Path
) -> ScoreTable:
    """Score part by part, going on from the table of a run that was killed, if it left one."""
    table: ScoreTable | None = on_rank_zero(lambda: _unfinished(work))
    done = table.samples // config.micro_batch_size if table else 0
    batches = calibration_batches(config, checkpoint.arch.vocab_size, work / "index", done)
    shown = progress(batches, desc=config.output.name, unit="batch", show=dist.get_rank() == 0)
    stream = iter(shown)
    ranks, total = config.parallel.data, config.samples // config.micro_batch_size
    own = parallel_state.get_data_parallel_rank()
    for first in range(done, total, _BATCHES_A_PART * ranks):
        last = min(first + _BATCHES_A_PART * ranks, total)
        forward_batches(config, model, stream, len(range(first + own, last, ranks)))
        part = _table(checkpoint, sums.take(), (last - first) * config.micro_batch_size, config)
        table = table.merge(part) if table else part
        on_rank_zero(functools.partial(table.save, work / SCORES_NAME))
    assert table is not None  # there are samples
    return table


def _table(
    checkpoint: Checkpoint, sums: Mapping[str, Tensor], samples: int, config: ScoreConfig
) -> ScoreTable:
    """Add the sums of all ranks."""
    arrays = {}
    for name, total in sums.items():
        dist.all_reduce(total)
        arrays[name] = total.cpu().numpy()
    return ScoreTable(
        arch=checkpoint.arch,
        samples=samples,
        tokens=samples * config.sequence_length,
        model=checkpoint.fingerprint(),
        **arrays,
    )


def _unfinished(work: Path) -> ScoreTable | None:
    path = work / SCORES_NAME
    return ScoreTable.load(path) if path.is_file() else None


def _publish(config: ScoreConfig, manifest: Manifest, table: ScoreTable, started: float) -> None:
    results: dict[str, Any] = {
        "samples": table.samples,
        "tokens": table.tokens,
        "block_influence": table.block_influence().tolist(),
    }
    with stage_output(config.output, manifest, results, started=started) as scratch:
        table.save(scratch / SCORES_NAME)


class ActivationSums:
    """The sums of a `ScoreTable`, filled by forward hooks on this rank's layers."""

    def __init__(self, arch: ModelArch, config: ScoreConfig) -> None:
        self.head_dim, self.sequence_parallel = arch.head_dim, config.parallel.sequence
        self.tensor_rank = parallel_state.get_tensor_model_parallel_rank()
        self.tensor_group = parallel_state.get_tensor_model_parallel_group()
        self.hidden, self.ffn, self.heads, self.cosine = empty_sums(arch).values()

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """Let every forward pass of `model` add to the sums in the block."""
        hooks = []
        for layer in model.decoder.layers:
            index = layer.layer_number - 1
            attention, mlp = layer.self_attention, layer.mlp
            hooks += [
                on_norm(layer.input_layernorm, attention.linear_qkv, self._add_hidden(2 * index)),
                on_norm(layer.pre_mlp_layernorm, mlp.linear_fc1, self._add_hidden(2 * index + 1)),
                on_input(mlp.linear_fc2, self._add_ffn(index)),
                on_input(attention.linear_proj, self._add_heads(index)),
                layer.register_forward_hook(self._add_cosine(index), with_kwargs=True),
            ]
        return attached(hooks)

    def take(self) -> dict[str, Tensor]:
        """Return this rank's sums and start again from zero."""
        taken = {}
        for name in ("hidden", "ffn", "heads", "cosine"):
            taken[name] = getattr(self, name)
            setattr(self, name, torch.zeros_like(taken[name]))
        return taken

    def _add_hidden(self, row: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, h], or [s / ranks, b, h]
            means = mean_magnitude(activations)
            if self.sequence_parallel:
                dist.all_reduce(means, group=self.tensor_group)
                means /= dist.get_world_size(self.tensor_group)
            if self.tensor_rank == 0:  # the others hold the same
                self.hidden[row] += squares(means)

        return add

    def _add_ffn(self, layer: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, f / ranks]
            found = squares(mean_magnitude(activations))
            start = self.tensor_rank * found.numel()
            self.ffn[layer, start : start + found.numel()] += found

        return add

    def _add_heads(self, layer: int) -> Callable[[Tensor], None]:
        def add(activations: Tensor) -> None:  # [s, b, heads · d / ranks]
            found = squares(mean_magnitude(activations)).view(-1, self.head_dim).sum(dim=1)
            start = self.tensor_rank * found.numel()
            self.heads[layer, start : start + found.numel()] += found

        return add

    def _add_cosine(self, layer: int) -> Callable[..., None]:
        def add(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            entering = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            leaving = output[0] if isinstance(output, tuple) else output
            if self.tensor_rank == 0 or self.sequence_parallel:
                self.cosine[layer] += cosines(entering, leaving).sum(dtype=torch.float64)

        return add


def empty_sums(arch: ModelArch) -> dict[str, Tensor]:
    """Return the arrays of a `ScoreTable` as float64 zeros where the model computes."""
    layers = arch.num_layers
    shapes = {
        "hidden": (2 * layers, arch.hidden_size),
        "ffn": (layers, arch.ffn_hidden_size),
        "heads": (layers, arch.num_attention_heads),
        "cosine": (layers,),
    }
    return {
        name: torch.zeros(shape, dtype=torch.float64, device="cuda")
        for name, shape in shapes.items()
    }


def mean_magnitude(activations: Tensor) -> Tensor:
    """Return mean_s |a| of [s, b, k] as [b, k], in float32 at least.

    `torch.linalg.vector_norm(ord=1)` needs no temporary, but takes eight times as long here.
    """
    return activations.abs().mean(dim=0, dtype=_accurate(activations))


def squares(means: Tensor) -> Tensor:
    """Return Σ_b m² of [b, k] as float64 [k]."""
    return means.double().square().sum(dim=0)


def cosines(entering: Tensor, leaving: Tensor) -> Tensor:
    """Return cos(x, y) of [s, b, h] by token, [s, b]; 0 where either is zero.

    A third of the time of `torch.nn.functional.cosine_similarity`, which normalises both first.
    """
    dtype = _accurate(entering)
    x, y = entering.to(dtype), leaving.to(dtype)
    lengths = torch.linalg.vector_norm(x, dim=-1) * torch.linalg.vector_norm(y, dim=-1)
    found: Tensor = torch.linalg.vecdot(x, y) / lengths.clamp_min(torch.finfo(dtype).tiny)
    return found


def _accurate(activations: Tensor) -> torch.dtype:
    return torch.promote_types(activations.dtype, torch.float32)
