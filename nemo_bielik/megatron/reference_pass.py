"""A reference model over all answers of preference pairs, once: what `bielik reference` runs.

One epoch of packed rows in parts of so many; each part is dealt to a data-parallel rank and saved
whole or not at all, so that a run that was killed goes on with the missing ones.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.bridge.training.initialize import destroy_global_state
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import unwrap_model
from torch import Tensor
from torch.utils.data import ConcatDataset, default_collate

from nemo_bielik.align.log_probs import answer_log_probs
from nemo_bielik.align.reference import ANSWER, ReferenceConfig, write_store
from nemo_bielik.distill.cache_format import Array, Fragments
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import atomic_file, explain_disk_errors
from nemo_bielik.manifest import Manifest
from nemo_bielik.megatron.batches import Batch, next_batch, require_packable
from nemo_bielik.megatron.model import (
    distributed_session,
    load_for_inference,
    on_rank_zero,
    quiet,
)
from nemo_bielik.megatron.output_layer import output_layer, return_hidden
from nemo_bielik.megatron.packing import whole_documents
from nemo_bielik.progress import progress
from nemo_bielik.stages import is_done, open_work, stage_output


def write_reference(config: ReferenceConfig, manifest: Manifest) -> None:
    """Write `config.output` with `manifest`, in a session of its own; every rank calls it."""
    with distributed_session():
        compute_reference(config, manifest)


def compute_reference(config: ReferenceConfig, manifest: Manifest) -> None:
    """Write `config.output` unless it is there, within a session; no model is left in memory.

    Raises `StorageError` if another recipe's work lies in the way.
    """
    require_packable(config.micro_batch_size, config.parallel.pipeline)
    if on_rank_zero(lambda: is_done(config.output, manifest)):
        return
    started = time.monotonic()
    work = on_rank_zero(lambda: open_work(config.output, manifest))
    with explain_disk_errors(config.output):
        with quiet(work / f"engine.rank{dist.get_rank()}.log"):
            rows = _rows(config, work / "index")
            parts = [
                range(start, min(start + config.shard_rows, len(rows)))
                for start in range(0, len(rows), config.shard_rows)
            ]
            missing = on_rank_zero(lambda: _missing(work, len(parts)))
            if missing:
                _ReferencePass(config, rows, work).write(missing, parts)
                destroy_global_state()
            dist.barrier()
        on_rank_zero(lambda: _publish(config, manifest, work, len(parts), started))


def answers_of(batch: Batch) -> Fragments:
    """Return the answers of a micro-batch, in the order of its rows."""
    rows = (batch.tokens, batch.position_ids, batch.loss_mask)
    return Fragments.of(*(field.cpu().numpy().reshape(-1) for field in rows))


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


class _ReferencePass:
    """The forward passes of one rank, and the parts that it writes."""

    def __init__(self, config: ReferenceConfig, rows: ConcatDataset[Any], work: Path) -> None:
        self.config, self.rows, self.work = config, rows, work
        _, self.chunks = load_for_inference(
            config.model, config.parallel, config.sequence_length, config.precision
        )
        self.model: Any = unwrap_model(self.chunks)[0]
        return_hidden(self.model)
        self.group = parallel_state.get_tensor_model_parallel_group()

    def write(self, missing: list[int], parts: list[range]) -> None:
        """Write those of the missing parts that are this data-parallel rank's."""
        ranks = parallel_state.get_data_parallel_world_size()
        mine = missing[parallel_state.get_data_parallel_rank() :: ranks]
        show = dist.get_rank() == 0
        for number in progress(mine, desc=self.config.output.name, unit="part", show=show):
            answers = self._answers(parts[number])
            if self.model.post_process and dist.get_rank(self.group) == 0:
                with (
                    atomic_file(_part(self.work, number)) as scratch,
                    scratch.open("wb") as stream,
                ):
                    np.save(stream, np.concatenate(answers))

    def _answers(self, numbers: range) -> list[Array]:
        """Return the answers of some rows; nothing on all but the last stage."""
        batches = self._batches(numbers)

        def forward_step(data: Iterator[Any], chunk: Any) -> tuple[Tensor, Callable[..., Any]]:
            batch = next_batch(data)
            hidden = chunk(**batch.model_inputs())
            return hidden, lambda hidden: (hidden.new_zeros(()), self._of(hidden, batch))

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
        return [report["answers"] for report in reports]

    def _batches(self, numbers: range) -> list[dict[str, Any]]:
        """Return micro-batches of rows; the last one is filled up with padding."""
        size = self.config.micro_batch_size
        batches = []
        for start in range(numbers.start, numbers.stop, size):
            items = [self.rows[number] for number in range(start, min(start + size, numbers.stop))]
            blank: Any = {name: torch.zeros_like(values) for name, values in items[0].items()}
            blank["position_ids"] = torch.arange(self.config.sequence_length)
            batches.append(default_collate(items + [blank] * (size - len(items))))
        return batches

    def _of(self, hidden: Tensor, batch: Batch) -> dict[str, Array]:
        shape = hidden.shape[:2]
        labels, mask, positions = (
            values.view(shape) for values in (batch.labels, batch.loss_mask, batch.position_ids)
        )
        layer = output_layer(self.model, hidden)
        sums, _ = answer_log_probs(layer, labels, mask, positions, self.group)
        if bool(sums.isnan().any()):
            raise CheckpointError(
                f"{self.config.model}: predicts NaN in {self.config.precision}; choose another "
                "precision, or another model"
            )
        answers = np.empty(len(sums), ANSWER)
        answers["key"], answers["log_prob"] = answers_of(batch).keys, sums.cpu().numpy()
        return {"answers": answers}


def _publish(
    config: ReferenceConfig, manifest: Manifest, work: Path, parts: int, started: float
) -> None:
    """Join the parts into the store; until it is there, they stay."""
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results, started=started) as scratch:
        answers = np.concatenate([np.load(_part(work, number)) for number in range(parts)])
        results |= write_store(scratch, answers)
    shutil.rmtree(work)
