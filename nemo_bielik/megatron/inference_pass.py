"""A frozen model over rows of text, once, in parts: what a killed run leaves is not done again.

Each part is dealt to a data-parallel rank and written whole or not at all. The model ends at its
hidden states: whoever measures makes logits of a few tokens at a time.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model
from torch import Tensor

from nemo_bielik.distill.cache_format import Array
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import atomic_file
from nemo_bielik.megatron.batches import Batch, next_batch
from nemo_bielik.megatron.model import load_for_inference
from nemo_bielik.megatron.output_layer import return_hidden
from nemo_bielik.megatron.schedule import Shape, run_schedule
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.progress import progress
from nemo_bielik.training import Precision

#: A micro-batch as rows are collated, with whatever else a pass wants to know of it.
Item = dict[str, Any]


class PassConfig(Shape, Protocol):
    """What a pass reads of its stage's settings."""

    @property
    def output(self) -> Path:
        """What the parts are for; its name stands beside the progress bar."""

    @property
    def precision(self) -> Precision:
        """What the model runs in."""

    @property
    def parallel(self) -> ParallelConfig:
        """The layout of the ranks."""


class InferencePass(ABC):
    """The forward passes of one rank, and the parts that it writes; a session must be open."""

    unit: ClassVar[str]  # what the progress bar calls a part

    def __init__(self, config: PassConfig, directory: Path) -> None:
        """Load the model of `directory`."""
        self.config, self.directory = config, directory
        _, self.chunks = load_for_inference(
            directory, config.parallel, config.sequence_length, config.precision
        )
        self.model: Any = unwrap_model(self.chunks)[0]
        return_hidden(self.model)
        self.group = parallel_state.get_tensor_model_parallel_group()

    def write(self, missing: list[int]) -> None:
        """Write those of the missing parts that are this data-parallel rank's."""
        ranks = parallel_state.get_data_parallel_world_size()
        mine = missing[parallel_state.get_data_parallel_rank() :: ranks]
        show = dist.get_rank() == 0
        for number in progress(mine, desc=self.config.output.name, unit=self.unit, show=show):
            found = self._measure_all(self._items(number))
            if self._saves():
                with atomic_file(self._path(number)) as scratch:
                    self._save(scratch, number, np.concatenate(found))

    def _saves(self) -> bool:
        """Whether this is the one of the ranks with the same records that writes them."""
        context = parallel_state.get_context_parallel_rank()
        return bool(self.model.post_process) and dist.get_rank(self.group) == context == 0

    def _measure_all(self, items: list[Item]) -> list[Array]:
        """Return the records of each micro-batch; nothing on all but the last stage."""

        def forward_step(data: Iterator[Item], chunk: Any) -> tuple[Tensor, Callable[..., Any]]:
            item = next(data)
            batch = next_batch(iter([item]))

            def measure(hidden: Tensor) -> tuple[Tensor, dict[str, Any]]:
                return hidden.new_zeros(()), {"found": self._measure(hidden, batch, item)}

            return chunk(**batch.model_inputs()), measure

        with torch.inference_mode():
            reports = run_schedule(forward_step, self.chunks, items, len(items), self.config)
        return [report["found"] for report in reports]

    def _require_numbers(self, values: Tensor) -> None:
        """Raise `CheckpointError` where the model predicts NaN."""
        if bool(values.isnan().any()):
            raise CheckpointError(
                f"{self.directory}: predicts NaN in {self.config.precision}; choose another "
                "precision, or another model"
            )

    @abstractmethod
    def _items(self, number: int) -> list[Item]:
        """Return the micro-batches of a part, all of the same size."""

    @abstractmethod
    def _measure(self, hidden: Tensor, batch: Batch, item: Item) -> Array:
        """Return the records of a micro-batch, from its hidden states [b, s, hidden]."""

    @abstractmethod
    def _path(self, number: int) -> Path:
        """Return where a part is kept."""

    @abstractmethod
    def _save(self, path: Path, number: int, records: Array) -> None:
        """Write a part, of the records of all its micro-batches."""
