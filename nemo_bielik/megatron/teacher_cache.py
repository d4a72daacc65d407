"""A teacher that is read from a cache on disk, in place of a model beside the student."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from nemo_bielik.distill.cache_format import Fragments, TeacherCache
from nemo_bielik.distill.cache_stage import CacheTeacherConfig
from nemo_bielik.distill.top_k import TopK
from nemo_bielik.errors import DataError
from nemo_bielik.megatron.batches import Batch, PackedText
from nemo_bielik.progress import progress
from nemo_bielik.stages import work_directory
from nemo_bielik.training import TrainConfig


class CachedTeacher:
    """What `bielik cache-teacher` wrote, at one temperature; no teacher runs.

    The ranks of the last pipeline stage read it, each for its own micro-batches.
    """

    def __init__(self, directory: Path, temperature: float) -> None:
        self.cache, self.temperature = TeacherCache(directory), temperature

    def attach(self, provider: GPTModelProvider, config: TrainConfig) -> None:
        """Make sure that every sequence of the run is in the cache; the ranks share the search.

        Raises `DataError` on every rank if one is not: now, not when training comes to it.
        """
        index = work_directory(config.output) / "index"
        rows = text_rows(config, provider.vocab_size, bool(config.eval_interval), index)
        mine = range(dist.get_rank(), len(rows), dist.get_world_size())
        found = progress(
            row_fragments(rows, mine),
            total=len(mine),
            desc=f"{self.cache.directory.name}: is all text in it",
            unit="row",
            show=dist.get_rank() == 0,
        )
        lacking = sum(len(self.cache.missing(fragments)) > 0 for fragments in found)
        counts: list[int] = [0] * dist.get_world_size()
        dist.all_gather_object(counts, lacking)
        if sum(counts):
            what = f"{sum(counts):,} of {len(rows):,} sequences of this run"
            raise DataError(self.cache.lacks(what))

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return 0: nothing is computed."""
        return 0.0

    def read(self, model: MegatronModule, output: Any, batch: Batch) -> tuple[Tensor, TopK | None]:
        """Return the student's output as it is and, on the last stage, what the cache holds."""
        if not unwrap_model(model).post_process:
            return output, None
        return output, self.top_k(batch, output.shape[:2])

    def top_k(self, batch: Batch, shape: torch.Size) -> TopK:
        """Return the teacher of a micro-batch, [*shape, k]; tokens without loss get zeros."""
        rows = (batch.tokens, batch.position_ids, batch.loss_mask)
        tokens, position_ids, mask = (field.cpu().numpy().reshape(-1) for field in rows)
        records = np.zeros(len(tokens), self.cache.layout.record)
        records[mask != 0] = self.cache.read(Fragments.of(tokens, position_ids, mask))

        def tensor(values: Any, dtype: torch.dtype) -> Tensor:
            found = torch.from_numpy(values).to(batch.tokens.device, dtype)
            return found.view(*shape, *values.shape[1:])

        ids = tensor(records["ids"].astype(np.int32), torch.long)
        logits = tensor(records["log_probs"], torch.float32) / self.temperature
        if not records["remainders"].shape[1]:  # k = V: no others
            return TopK(ids, logits)
        column = self.cache.layout.temperatures.index(self.temperature)
        return TopK(ids, logits, tensor(records["remainders"][:, column], torch.float32))


def text_rows(
    config: TrainConfig | CacheTeacherConfig, vocab_size: int, with_validation: bool, index: Path
) -> ConcatDataset[Any]:
    """Return all sequences that a training run reads, and those of a validation after them.

    Every rank calls it. Index files go to `index`, which every rank must see.
    """
    trained, judged = (n * config.global_batch_size for n in (config.iters, config.eval_iters))
    text = PackedText(
        train=config.train_data,
        validation=config.validation_data if with_validation else None,
        cache=index,
        seq_length=config.sequence_length,
        seed=config.seed,
        samples=trained,
        eval_samples=judged,
        vocab_size=vocab_size,
        weights=config.train_weights,
        packing=config.packing,
    )
    parts = [(text.training(), trained), (text.held_out(), judged)]
    # as many as are read: Megatron rounds up to epochs
    return ConcatDataset([Subset(rows, range(n)) for rows, n in parts if rows is not None])


def row_fragments(rows: Dataset[Any], numbers: range) -> Iterator[Fragments]:
    """Yield the fragments of some rows, one row at a time."""
    for number in numbers:
        row = rows[number]
        fields = (row["tokens"], row["position_ids"], row["loss_mask"])
        yield Fragments.of(*(field.numpy() for field in fields))
