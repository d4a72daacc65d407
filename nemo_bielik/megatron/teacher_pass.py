"""A teacher over all text of a distillation, once: what `bielik cache-teacher` runs.

First a plan, from the text alone: every fragment once, in shards of so many rows. Then the forward
passes, shard by shard, each dealt to a data-parallel rank and written whole or not at all; a run
that was killed goes on with the missing ones. Logits exist for a few tokens at a time.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import unwrap_model
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.distill.cache_format import Array, RecordLayout, shard_name, write_shard
from nemo_bielik.distill.cache_plan import Plan, pieces_of
from nemo_bielik.distill.cache_stage import CacheTeacherConfig, complete
from nemo_bielik.distill.fused import OutputLayer
from nemo_bielik.distill.top_k import likeliest
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import (
    atomic_directory,
    atomic_file,
    explain_disk_errors,
    require_space,
    sync,
)
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import next_batch, require_packable
from nemo_bielik.megatron.model import (
    distributed_session,
    load_for_inference,
    on_rank_zero,
    quiet,
)
from nemo_bielik.megatron.output_layer import output_layer, return_hidden
from nemo_bielik.megatron.teacher_cache import row_fragments, text_rows
from nemo_bielik.progress import progress
from nemo_bielik.stages import hold_work

#: Logits that exist at once on a rank, in float32; finding the likeliest takes a few times as much.
_LOGITS_BYTES = 64 * 2**20


def write_cache(config: CacheTeacherConfig, teacher: Checkpoint, manifest: Manifest) -> None:
    """Write `config.output` with `manifest`; every rank calls it.

    Raises `StorageError` if another recipe's work lies in the way or the disk is too small.
    """
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    started, layout = time.monotonic(), config.record_layout(teacher.arch.vocab_size)
    with distributed_session(), contextlib.ExitStack() as held:
        work = on_rank_zero(lambda: held.enter_context(hold_work(config.output, manifest)))
        if work is None:
            return
        shards = work / "cache"
        with quiet(work / f"engine.rank{dist.get_rank()}.log"):
            rows = text_rows(config, layout.vocab_size, True, work / "index")
            _make_plan(config, rows, layout, work / "plan")
            plan = Plan.load(work / "plan")
            missing = on_rank_zero(lambda: _missing(plan, shards, layout))
            if missing:
                _TeacherPass(config, layout, rows, plan, shards).write(missing)
            dist.barrier()
        on_rank_zero(lambda: _publish(config, manifest, layout, plan, work, started))


def _make_plan(
    config: CacheTeacherConfig, rows: Dataset[Any], layout: RecordLayout, output: Path
) -> None:
    """Write the plan, unless an earlier run has; every rank looks through its share of the rows."""
    if on_rank_zero(output.exists):
        return
    rank, ranks, count = dist.get_rank(), dist.get_world_size(), sum(config.sequences)
    mine = range(rank * count // ranks, (rank + 1) * count // ranks)
    found = zip(mine, row_fragments(rows, mine), strict=True)
    part = pieces_of(progress(found, total=len(mine), desc="text", unit="row", show=rank == 0))
    parts: list[Any] = [None] * ranks
    dist.gather_object(part, parts if rank == 0 else None)

    def join() -> None:
        plan = Plan.make(parts, config.rows_per_shard(layout))
        with atomic_directory(output) as scratch:
            plan.save(scratch)

    on_rank_zero(join)


def _missing(plan: Plan, directory: Path, layout: RecordLayout) -> list[int]:
    """Return the shards to write; raise `StorageError` if the disk has no space for them."""
    directory.mkdir(exist_ok=True)
    missing = plan.missing(directory, layout)
    sizes = plan.shards[missing]
    require_space(directory, sum(layout.shard_bytes(*row) for row in sizes.tolist()))
    return missing


class _TeacherPass:
    """The forward passes of one rank, and the shards that it writes."""

    def __init__(
        self,
        config: CacheTeacherConfig,
        layout: RecordLayout,
        rows: Dataset[Any],
        plan: Plan,
        directory: Path,
    ) -> None:
        self.config, self.layout, self.rows, self.plan = config, layout, rows, plan
        self.directory = directory
        _, self.chunks = load_for_inference(
            config.teacher, config.parallel, config.sequence_length, config.precision
        )
        self.model: Any = unwrap_model(self.chunks)[0]
        return_hidden(self.model)
        self.group = parallel_state.get_tensor_model_parallel_group()

    def write(self, missing: list[int]) -> None:
        """Write those of the missing shards that are this data-parallel rank's."""
        ranks = parallel_state.get_data_parallel_world_size()
        mine = missing[parallel_state.get_data_parallel_rank() :: ranks]
        show = dist.get_rank() == 0
        for number in progress(mine, desc=self.config.output.name, unit="shard", show=show):
            pieces = self.plan.of_shard(number)
            records = self._records(pieces)
            if self.model.post_process and dist.get_rank(self.group) == 0:
                with atomic_file(self.directory / shard_name(number)) as scratch:
                    write_shard(scratch, np.concatenate(records), pieces["positions"])

    def _records(self, pieces: Array) -> list[Array]:
        """Return the records of a shard's pieces; nothing on all but the last stage."""
        batches = self._batches(pieces)

        def forward_step(data: Iterator[Any], chunk: Any) -> tuple[Tensor, Callable[..., Any]]:
            item = next(data)
            hidden = chunk(**next_batch(iter([item])).model_inputs())
            return hidden, lambda hidden: (hidden.new_zeros(()), self._of(hidden, item["wanted"]))

        with torch.inference_mode():
            reports = get_forward_backward_func()(
                forward_step_func=forward_step,
                data_iterator=iter(batches),
                model=self.chunks,
                num_microbatches=len(batches),
                seq_length=self.config.sequence_length,
                micro_batch_size=self.config.micro_batch_size,
                forward_only=True,
            )
        return [records for report in reports for records in report["records"]]

    def _batches(self, pieces: Array) -> list[dict[str, Any]]:
        """Return micro-batches of the pieces' rows; `wanted` says which tokens have a record.

        The last one is filled up with its last row, of which then nothing is wanted.
        """
        size, numbers = self.config.micro_batch_size, np.unique(pieces["row"])
        batches = []
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            items = [self.rows[number] for number in some]
            batch = default_collate(items + items[-1:] * (size - len(items)))
            wanted = torch.zeros_like(batch["loss_mask"], dtype=torch.bool)
            for piece in pieces[np.isin(pieces["row"], some)]:
                row = int(np.searchsorted(some, piece["row"]))
                wanted[row, piece["start"] : piece["end"]] = True
            batches.append({**batch, "wanted": wanted & (batch["loss_mask"] != 0)})
        return batches

    def _of(self, hidden: Tensor, wanted: Tensor) -> dict[str, list[Array]]:
        """Return the records of the wanted tokens of a micro-batch, in chunks."""
        layer = output_layer(self.model, hidden)
        where = wanted.reshape(-1).to(hidden.device)
        tokens = OutputLayer(layer.hidden.flatten(0, -2)[where], layer.weight)
        size = max(1, _LOGITS_BYTES // (4 * len(layer.weight)))
        chunks = tokens.hidden.split(size)
        return {"records": [self._chunk(chunk @ layer.weight.t()) for chunk in chunks]}

    def _chunk(self, logits: Tensor) -> Array:
        layout = self.layout
        ids, log_probs, remainders = likeliest(logits, layout.k, layout.temperatures, self.group)
        if bool(log_probs.isnan().any()):
            raise CheckpointError(
                f"{self.config.teacher}: predicts NaN in {self.config.precision}; choose another "
                "precision, or another model"
            )
        records = np.empty(len(logits), layout.record)
        records["ids"] = ids.cpu().numpy()
        with np.errstate(over="ignore"):  # below −65,504 a probability is 0 in any type
            records["log_probs"] = log_probs.cpu().numpy()
        if records["remainders"].shape[1]:
            records["remainders"] = remainders.cpu().numpy()
        return records


def _publish(
    config: CacheTeacherConfig,
    manifest: Manifest,
    layout: RecordLayout,
    plan: Plan,
    work: Path,
    started: float,
) -> None:
    """Complete the directory that holds the shards and give it the output's name.

    The shards stay where they are, so that a kill here costs none of them.
    """
    directory, seconds = work / "cache", round(time.monotonic() - started, 3)
    with explain_disk_errors(config.output):
        copy_tokenizer(config.teacher, directory)
        complete(directory, config, manifest, layout, plan, seconds)
        for path in [*directory.iterdir(), directory]:
            sync(path)
        os.replace(directory, config.output)
        sync(config.output.parent)
    shutil.rmtree(work)
