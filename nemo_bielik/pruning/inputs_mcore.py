"""Collect what reaches the projections of a Megatron model: input norms or Hessians, in one pass.

For Wanda the sums of squares of every input (the report's equation 4), for SparseGPT the matrices
Σ x xᵀ (equation 2). All tokens count, those that close a document too.

Shapes: s positions, b samples, n = s · b tokens; Megatron keeps activations as [s, b, ·]. A rank
has the layers of its pipeline stage, and its tensor ranks share every Hessian by rows; data ranks
are added at the end. A run that was killed starts again: it is a forward pass over little text.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from safetensors.torch import save_file
from torch import Tensor

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import file_sha256, require_space
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
)
from nemo_bielik.pruning.input_statistics import (
    INPUT_NORMS_NAME,
    INPUTS,
    Hessians,
    InputNorms,
    hessian_bytes,
    hessian_file,
    input_sizes,
)
from nemo_bielik.pruning.methods import find_method
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.stages import stage_output

#: Inputs that tensor ranks hold a slice of; the others are whole on every one of them.
_SLICED = ("o_proj", "down_proj")


def collect(config: ScoreConfig, checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Collect what `config.method` needs of `checkpoint` and publish it; every rank calls it.

    Raises `StorageError` before the model is loaded if the Hessians will not fit on the disk.
    """
    started = time.monotonic()
    tokens = config.samples * config.sequence_length
    if find_method(config.method).statistics == "hessians":
        require_space(config.output, hessian_bytes(checkpoint.arch))
        with _forward_pass(config, checkpoint.arch, HessianSums) as (sums, work):
            files = sums.save(work)
            on_rank_zero(
                lambda: _publish_hessians(config, checkpoint, manifest, files, work, started)
            )
        return
    with _forward_pass(config, checkpoint.arch, NormSums) as (sums, _):
        squares = {name: total.cpu().numpy() for name, total in sums.total().items()}
        table = InputNorms(
            arch=checkpoint.arch, squares=squares, tokens=tokens, model=checkpoint.fingerprint()
        )
        on_rank_zero(lambda: _publish_norms(config, manifest, table, started))


@contextlib.contextmanager
def _forward_pass(
    config: ScoreConfig, arch: ModelArch, make_sums: Callable[[ModelArch, bool], Any]
) -> Iterator[tuple[Any, Path]]:
    """Yield the sums over all calibration text, this rank's part, and a directory all ranks see."""
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    with calibration_model(config) as (_, model, work):
        sums = make_sums(arch, config.parallel.sequence)
        batches = calibration_batches(config, arch.vocab_size, work / "index")
        shown = progress(batches, desc=config.output.name, unit="batch", show=dist.get_rank() == 0)
        with _hooks(unwrap_model(model)[0], sums.add):
            forward_batches(config, model, shown, len(batches))
        yield sums, work


def _hooks(
    model: Any, add: Callable[[int, str, Tensor], None]
) -> contextlib.AbstractContextManager[None]:
    """Hand every projection's input to `add` with its layer and its name in `INPUTS`."""

    def to(layer: int, name: str) -> Callable[[Tensor], None]:
        return lambda activations: add(layer, name, activations)

    handles = []
    for block in model.decoder.layers:
        layer, attention, mlp = block.layer_number - 1, block.self_attention, block.mlp
        handles += [
            on_norm(block.input_layernorm, attention.linear_qkv, to(layer, "qkv_proj")),
            on_input(attention.linear_proj, to(layer, "o_proj")),
            on_norm(block.pre_mlp_layernorm, mlp.linear_fc1, to(layer, "gate_up_proj")),
            on_input(mlp.linear_fc2, to(layer, "down_proj")),
        ]
    return attached(handles)


class NormSums:
    """Σ x² of every input, squared in float32 at least and added in float64."""

    def __init__(self, arch: ModelArch, sequence_parallel: bool) -> None:
        self.sequence_parallel = sequence_parallel
        self.rank = parallel_state.get_tensor_model_parallel_rank()
        self.sums = {
            name: torch.zeros(arch.num_layers, size, dtype=torch.float64, device="cuda")
            for name, size in input_sizes(arch).items()
        }

    def add(self, layer: int, name: str, activations: Tensor) -> None:
        """Add one micro-batch, [s, b, in] or this rank's slice of it."""
        accurate = activations.to(torch.promote_types(activations.dtype, torch.float32))
        squares = accurate.square().sum(dim=(0, 1), dtype=torch.float64)
        if name in _SLICED:
            start = self.rank * squares.numel()
            self.sums[name][layer, start : start + squares.numel()] += squares
        elif self.rank == 0 or self.sequence_parallel:  # else the others hold the same
            self.sums[name][layer] += squares

    def total(self) -> dict[str, Tensor]:
        """Return the sums over all ranks, [layers, in]."""
        for total in self.sums.values():
            dist.all_reduce(total)
        return self.sums


class HessianSums:
    """Σ x xᵀ of every input of this rank's layers: products and sums in float32.

    A tensor rank keeps its share of the rows. Bielik-11B needs 51 GB over all tensor and pipeline
    ranks together. Rounding is far below the damping that SparseGPT adds (a hundredth of the mean
    of the diagonal), so float64 would double the memory for nothing.
    """

    def __init__(self, arch: ModelArch, sequence_parallel: bool) -> None:
        self.sequence_parallel = sequence_parallel
        self.arch = arch
        self.group = parallel_state.get_tensor_model_parallel_group()
        self.rank = parallel_state.get_tensor_model_parallel_rank()
        self.sums: dict[int, dict[str, Tensor]] = {}

    def add(self, layer: int, name: str, activations: Tensor) -> None:
        """Add one micro-batch, [s, b, in] or this rank's slice of it."""
        own = activations.float().flatten(0, 1)
        if name in _SLICED:
            whole = torch.cat(self._gather(own), dim=1)
        else:
            whole = torch.cat(self._gather(own)) if self.sequence_parallel else own
            share = self._share(whole.size(1))
            own = whole[:, self.rank * share : (self.rank + 1) * share]
        if name not in self.sums.setdefault(layer, {}):
            shape = (own.size(1), whole.size(1))
            self.sums[layer][name] = torch.zeros(shape, device=whole.device)
        self.sums[layer][name].addmm_(own.T, whole)

    def save(self, directory: Path) -> list[str]:
        """Write a file for every layer, added over data ranks; return their hashes on every rank.

        One layer at a time is gathered whole.
        """
        mine = {}
        for layer in sorted(self.sums):
            with torch.inference_mode():  # where the sums were made
                whole = {name: self._whole(self.sums[layer].pop(name)) for name in INPUTS}
            if self.rank == 0 and parallel_state.get_data_parallel_rank() == 0:
                path = directory / hessian_file(layer)
                save_file(whole, path)
                mine[layer] = file_sha256(path)
        everyones: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
        hashes = {layer: sha256 for part in everyones for layer, sha256 in part.items()}
        return [hashes[layer] for layer in range(self.arch.num_layers)]

    def _whole(self, rows: Tensor) -> Tensor:
        dist.all_reduce(rows, group=parallel_state.get_data_parallel_group())
        size = rows.size(1)
        missing = self._share(size) - rows.size(0)  # the last ranks may have fewer rows
        parts = self._gather(torch.nn.functional.pad(rows, (0, 0, 0, missing)))
        return torch.cat(parts)[:size].cpu()

    def _share(self, size: int) -> int:
        return -(-size // dist.get_world_size(self.group))

    def _gather(self, part: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, part.contiguous(), group=self.group)
        return parts


def _publish_norms(
    config: ScoreConfig, manifest: Manifest, table: InputNorms, started: float
) -> None:
    results: dict[str, Any] = {"samples": config.samples, "tokens": table.tokens}
    with stage_output(config.output, manifest, results, started=started) as scratch:
        table.save(scratch / INPUT_NORMS_NAME)


def _publish_hessians(
    config: ScoreConfig,
    checkpoint: Checkpoint,
    manifest: Manifest,
    files: list[str],
    work: Path,
    started: float,
) -> None:
    tokens = config.samples * config.sequence_length
    results: dict[str, Any] = {"samples": config.samples, "tokens": tokens}
    with stage_output(config.output, manifest, results, started=started) as scratch:
        for layer in range(len(files)):
            (work / hessian_file(layer)).rename(scratch / hessian_file(layer))
        Hessians(
            arch=checkpoint.arch,
            layers=files,
            tokens=tokens,
            model=checkpoint.fingerprint(),
            directory=scratch,
        ).save()
