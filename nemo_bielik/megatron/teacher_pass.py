"""A teacher over all text of a distillation, once: what `bielik cache-teacher` runs.

First a plan, from the text alone: every fragment once, in shards of so many rows. Then the forward
passes, shard by shard, each dealt to a data-parallel rank and written whole or not at all; a run
that was killed goes on with the missing ones. Logits exist for a few tokens at a time.
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from nemo_bielik.checkpoint import Checkpoint, copy_tokenizer
from nemo_bielik.distill.cache_format import Array, RecordLayout, shard_name, write_shard
from nemo_bielik.distill.cache_plan import Plan, pieces_of
from nemo_bielik.distill.cache_stage import CacheTeacherConfig, complete
from nemo_bielik.distill.fused import OutputLayer
from nemo_bielik.distill.top_k import likeliest
from nemo_bielik.files import (
    atomic_directory,
    explain_disk_errors,
    require_space,
    sync,
)
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import Batch, require_packable
from nemo_bielik.megatron.inference_pass import InferencePass, Item
from nemo_bielik.megatron.model import (
    distributed_session,
    on_rank_zero,
    quiet,
    work_of_all_ranks,
)
from nemo_bielik.megatron.output_layer import output_layer
from nemo_bielik.megatron.teacher_cache import row_fragments, text_rows
from nemo_bielik.progress import progress

#: Logits that exist at once on a rank, in float32; finding the likeliest takes a few times as much.
_LOGITS_BYTES = 64 * 2**20


def write_cache(config: CacheTeacherConfig, teacher: Checkpoint, manifest: Manifest) -> None:
    """Write `config.output` with `manifest`; every rank calls it.

    Raises `StorageError` if another recipe's work lies in the way or the disk is too small.
    """
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    started, layout = time.monotonic(), config.record_layout(teacher.arch.vocab_size)
    with distributed_session(), work_of_all_ranks(config.output, manifest) as work:
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


class _TeacherPass(InferencePass):
    """The teacher's forward passes on one rank, and the shards that it writes to `shards`."""

    unit = "shard"

    def __init__(
        self,
        config: CacheTeacherConfig,
        layout: RecordLayout,
        rows: Dataset[Any],
        plan: Plan,
        shards: Path,
    ) -> None:
        super().__init__(config, config.teacher)
        self.layout, self.rows, self.plan, self.shards = layout, rows, plan, shards

    def _path(self, number: int) -> Path:
        return self.shards / shard_name(number)

    def _save(self, path: Path, number: int, records: Array) -> None:
        write_shard(path, records, self.plan.of_shard(number)["positions"])

    def _items(self, number: int) -> list[Item]:
        """Return micro-batches of the pieces' rows; `wanted` says which tokens have a record.

        The last one is filled up with its last row, of which then nothing is wanted.
        """
        pieces, size = self.plan.of_shard(number), self.config.micro_batch_size
        numbers = np.unique(pieces["row"])
        batches = []
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            items = [self.rows[row] for row in some]
            batch = default_collate(items + items[-1:] * (size - len(items)))
            wanted = torch.zeros_like(batch["loss_mask"], dtype=torch.bool)
            for piece in pieces[np.isin(pieces["row"], some)]:
                place = int(np.searchsorted(some, piece["row"]))
                wanted[place, piece["start"] : piece["end"]] = True
            batches.append({**batch, "wanted": wanted & (batch["loss_mask"] != 0)})
        return batches

    def _measure(self, hidden: Tensor, batch: Batch, item: Item) -> Array:
        """Return the records of the wanted tokens of a micro-batch, made in chunks."""
        layer = output_layer(self.model, hidden)
        where = item["wanted"].reshape(-1).to(hidden.device)
        tokens = OutputLayer(layer.hidden.flatten(0, -2)[where], layer.weight)
        size = max(1, _LOGITS_BYTES // (4 * len(layer.weight)))
        chunks = tokens.hidden.split(size)
        return np.concatenate([self._records(chunk @ layer.weight.t()) for chunk in chunks])

    def _records(self, logits: Tensor) -> Array:
        layout = self.layout
        ids, log_probs, remainders = likeliest(logits, layout.k, layout.temperatures, self.group)
        self._require_numbers(log_probs)
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
