"""A reference model over all answers of preference pairs, once: what `bielik reference` runs.

One epoch of packed rows in parts of so many; each part is dealt to a data-parallel rank and saved
whole or not at all, so that a run that was killed goes on with the missing ones.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.bridge.training.initialize import destroy_global_state
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor
from torch.utils.data import ConcatDataset, default_collate

from nemo_bielik.align.log_probs import Answers, answer_log_probs
from nemo_bielik.align.reference import ANSWER, ReferenceConfig, write_store
from nemo_bielik.distill.cache_format import Array, Fragments
from nemo_bielik.files import explain_disk_errors
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import Batch, require_packable
from nemo_bielik.megatron.context_parallel import own_part
from nemo_bielik.megatron.inference_pass import InferencePass, Item
from nemo_bielik.megatron.model import (
    distributed_session,
    on_rank_zero,
    quiet,
    work_of_all_ranks,
)
from nemo_bielik.megatron.output_layer import output_layer
from nemo_bielik.megatron.packing import whole_documents
from nemo_bielik.stages import stage_output


def write_reference(config: ReferenceConfig, manifest: Manifest) -> None:
    """Write `config.output` with `manifest`, in a session of its own; every rank calls it."""
    with distributed_session():
        compute_reference(config, manifest)


def compute_reference(config: ReferenceConfig, manifest: Manifest) -> None:
    """Write `config.output` unless it is there, within a session; no model is left in memory.

    Raises `StorageError` if another recipe's work lies in the way, or another process works on it.
    """
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    with work_of_all_ranks(config.output, manifest) as work, explain_disk_errors(config.output):
        if work is None:
            return
        started = time.monotonic()
        with quiet(work / f"engine.rank{dist.get_rank()}.log"):
            rows = _rows(config, work / "index")
            parts = [
                range(start, min(start + config.shard_rows, len(rows)))
                for start in range(0, len(rows), config.shard_rows)
            ]
            missing = on_rank_zero(lambda: _missing(work, len(parts)))
            if missing:
                _ReferencePass(config, rows, parts, work).write(missing)
                destroy_global_state()
            dist.barrier()
        on_rank_zero(lambda: _publish(config, manifest, work, len(parts), started))


def answers_of(batch: Batch) -> Fragments:
    """Return the answers of a micro-batch, in the order of its rows."""
    whole = batch.whole
    rows = (whole.tokens, whole.position_ids, whole.loss_mask)
    return Fragments.of(*(field.cpu().numpy().reshape(-1) for field in rows))


def log_probs_of(model: MegatronModule, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of `answers_of` and their weights, on all ranks the same.

    Args:
        model: of the last stage.
        hidden: its hidden states [b, s, hidden], or this rank's part of them.
    """
    answers = Answers.of(batch.whole.loss_mask, batch.whole.position_ids)
    shared = batch.shared is not None
    numbers = own_part(answers.numbers) if shared else answers.numbers
    labels, mask = (values.view(hidden.shape[:2]) for values in (batch.labels, batch.loss_mask))
    sums = answer_log_probs(
        output_layer(model, hidden),
        labels,
        mask,
        numbers,
        len(answers.weights),
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_context_parallel_group() if shared else None,
    )
    return sums, answers.weights


def _rows(config: ReferenceConfig, index: Path) -> ConcatDataset[Any]:
    """Return every pair once, packed into rows."""
    return ConcatDataset(
        [
            whole_documents(data, 0, config.sequence_length, 1, index, epochs=1)
            for data in config.data
        ]
    )


def _part(work: Path, number: int) -> Path:
    return work / f"part-{number:05d}.npy"


def _missing(work: Path, parts: int) -> list[int]:
    return [number for number in range(parts) if not _part(work, number).is_file()]


class _ReferencePass(InferencePass):
    """The reference's forward passes on one rank, and the parts that it writes to `work`."""

    unit = "part"

    def __init__(
        self, config: ReferenceConfig, rows: ConcatDataset[Any], parts: list[range], work: Path
    ) -> None:
        super().__init__(config, config.model)
        self.rows, self.parts, self.work = rows, parts, work

    def _path(self, number: int) -> Path:
        return _part(self.work, number)

    def _save(self, path: Path, number: int, records: Array) -> None:
        with path.open("wb") as stream:  # given a path, numpy would add its ending
            np.save(stream, records)

    def _items(self, number: int) -> list[Item]:
        """Return micro-batches of rows; the last one is filled up with padding."""
        numbers, size = self.parts[number], self.config.micro_batch_size
        batches = []
        for start in range(numbers.start, numbers.stop, size):
            items = [self.rows[row] for row in range(start, min(start + size, numbers.stop))]
            blank: Any = {name: torch.zeros_like(values) for name, values in items[0].items()}
            blank["position_ids"] = torch.arange(self.config.sequence_length)
            batches.append(default_collate(items + [blank] * (size - len(items))))
        return batches

    def _measure(self, hidden: Tensor, batch: Batch, item: Item) -> Array:
        """Return the answers of a micro-batch with their log-probabilities."""
        sums, _ = log_probs_of(self.model, hidden, batch)
        self._require_numbers(sums)
        answers = np.empty(len(sums), ANSWER)
        answers["key"], answers["log_prob"] = answers_of(batch).keys, sums.cpu().numpy()
        return answers


def _publish(
    config: ReferenceConfig, manifest: Manifest, work: Path, parts: int, started: float
) -> None:
    """Join the parts into the store; until it is there, they stay."""
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results, started=started) as scratch:
        answers = np.concatenate([np.load(_part(work, number)) for number in range(parts)])
        results |= write_store(scratch, answers)
    shutil.rmtree(work)
