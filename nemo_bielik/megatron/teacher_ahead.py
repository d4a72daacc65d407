"""A live teacher in a parallel layout of its own, which runs ahead of its student.

The stages of a student's pipeline work on different micro-batches at one time, so the collectives
of a teacher that is split over other ranks cannot happen within the student's forward steps: ranks
would wait for each other. So before the schedule of a training step, or of a batch of a validation,
all ranks together run the teacher over all of its micro-batches. Their rows are dealt to the
teacher's replicas; its last stage sends hidden states to the ranks where the student's loss is
taken, which keep them until then.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge.models.gpt_provider import GPTModelProvider
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import unwrap_model
from torch import Tensor

from nemo_bielik.distill.fused import OutputLayer
from nemo_bielik.megatron.batches import Batch, next_batch
from nemo_bielik.megatron.frozen_model import FrozenModel
from nemo_bielik.megatron.model import model_provider, open_bridge
from nemo_bielik.megatron.rank_exchange import Message, exchange, last_stage_ranks, row_routes
from nemo_bielik.megatron.teacher import teacher_flops_per_token
from nemo_bielik.megatron.upstream_fixes import install_step_hook
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import Precision, TrainConfig

#: The attribute by which a student names the teacher that runs ahead of it.
_AHEAD = "_bielik_teacher_ahead"


@dataclass(frozen=True)
class Piece:
    """Some rows of one micro-batch of one data-parallel replica of the student."""

    micro_batch: int
    replica: int
    rows: slice


def deal(micro_batches: int, size: int, students: int, teachers: int) -> list[Piece]:
    """Cut a step's micro-batches, of `size` rows each, into pieces of as many rows each.

    Number k is for replica k modulo `teachers` of the teacher. Pieces are as large as they can be
    while no replica gets more than its share of the rows, rounded up. With as many replicas on
    either side each gets what its own ranks have read.
    """
    share = math.ceil(micro_batches * size * students / teachers)
    rows = math.gcd(size, share)
    return [
        Piece(micro_batch, replica, slice(first, first + rows))
        for micro_batch in range(micro_batches)
        for first in range(0, size, rows)
        for replica in range(students)
    ]


class AheadTeacher:
    """The original model, frozen, split by `parallel` over the ranks of its student.

    A rank holds its share of the teacher's layers and, where the loss is taken, its slice of the
    output weight and a step's hidden states: rows of its data-parallel replica × tokens × hidden.
    """

    def __init__(
        self, directory: Path, parallel: ParallelConfig, precision: Precision | None = None
    ) -> None:
        self.directory, self.parallel, self.precision = directory, parallel, precision
        self.model: FrozenModel | None = None
        self.weight: Tensor | None = None
        self._students: list[list[int]] = []
        self._waiting: deque[Tensor] = deque()

    def attach(self, provider: GPTModelProvider, config: TrainConfig) -> None:
        """Have this teacher built with the student, and run before every step of it."""
        self.model = self.weight = None  # a roll-back builds both again
        install_step_hook(_look_ahead_of)
        teacher = model_provider(
            open_bridge(self.directory),
            self.parallel,
            self.precision or config.precision,
            config.sequence_length,
        )

        def build(student: list[MegatronModule]) -> list[MegatronModule]:
            self._students = last_stage_ranks()
            self.model = FrozenModel(teacher, self.parallel)
            self.weight = output_slice(self.model, self._students)
            setattr(student[0], _AHEAD, self)
            return student

        provider.register_pre_wrap_hook(build)

    def flops_per_token(self, config: TrainConfig) -> float:
        """Return those of a forward pass."""
        return teacher_flops_per_token(self.directory, config.sequence_length)

    def read(
        self, model: MegatronModule, output: Any, batch: Batch
    ) -> tuple[Tensor, OutputLayer | None]:
        """Return what was computed ahead for the micro-batch whose turn it is."""
        if self.weight is None:
            return output, None
        hidden = self._waiting.popleft()
        # sequences packed for Transformer Engine are one long row in the student's output
        return output, OutputLayer(hidden.view(*output.shape[:-1], -1), self.weight)

    def look_ahead(self, data_iterator: Iterator[Any], micro_batches: int) -> Iterator[Any]:
        """Take a step's micro-batches, run the teacher on them, and return them to the student."""
        items = [next(data_iterator) for _ in range(micro_batches)]
        self._waiting = deque(self._hidden_states(items))
        return iter(items)

    def _hidden_states(self, items: list[dict[str, Tensor]]) -> list[Tensor]:
        """Return the hidden states [b, s, h] of this rank's micro-batches where it needs them."""
        model = self.model
        assert model is not None, "built with the student"
        rows, length = items[0]["tokens"].shape
        pieces = deal(len(items), rows, len(self._students), len(model.last_stage))
        mine = range(model.replica, len(pieces), len(model.last_stage))
        everyone = _of_all_replicas(items)
        found = model.hidden_states(_batch(everyone, pieces[number]) for number in mine)
        kept = []
        if self.weight is not None:
            kept = [model.empty(rows, length, model.hidden_size) for _ in items]
        # only the last stage has found something
        exchange(self._messages(pieces, dict(zip(mine, found, strict=False)), kept))
        return kept

    def _messages(
        self, pieces: list[Piece], found: dict[int, Tensor], kept: list[Tensor]
    ) -> Iterator[Message]:
        """Yield every piece's way to the tensor-parallel ranks of the student's last stage.

        Args:
            found: what this rank has, by the piece's number.
            kept: this rank's micro-batches, to be filled.
        """
        assert self.model is not None
        teachers = self.model.last_stage
        for number, piece in enumerate(pieces):
            senders = teachers[number % len(teachers)]
            for place, receiver in enumerate(self._students[piece.replica]):
                taken = kept[piece.micro_batch][piece.rows] if kept else None
                yield Message(senders[place % len(senders)], receiver, found.get(number), taken)


def output_slice(model: FrozenModel, receivers: list[list[int]]) -> Tensor | None:
    """Return this rank's rows [vocab / ranks, h] of a model's output weight, if it is a receiver.

    Args:
        receivers: [replica][place]: ranks that want the vocabulary split over the places.
    """
    given = model.take_output_weight()
    taken = None
    if any(dist.get_rank() in ranks for ranks in receivers):
        taken = model.empty(model.vocab_size // len(receivers[0]), model.hidden_size)
    messages = []
    for replica, wanting in enumerate(receivers):
        having = model.last_stage[replica % len(model.last_stage)]
        for here, there in row_routes(model.vocab_size, len(having), len(wanting)):
            messages.append(
                Message(
                    having[here.place],
                    wanting[there.place],
                    None if given is None else given[here.rows],
                    None if taken is None else taken[there.rows],
                )
            )
    exchange(messages)
    return taken


def _of_all_replicas(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return what the student's replicas have read, by field, [replica, micro-batch, b, s]."""
    group = parallel_state.get_data_parallel_group()
    everyone = {}
    for name in items[0]:
        mine = torch.stack([item[name] for item in items]).cuda()
        joined = mine.new_empty(group.size() * len(items), *mine.shape[1:])
        dist.all_gather_into_tensor(joined, mine, group)
        everyone[name] = joined.view(group.size(), *mine.shape)
    return everyone


def _batch(everyone: dict[str, Tensor], piece: Piece) -> Batch:
    item = {
        name: values[piece.replica, piece.micro_batch, piece.rows]
        for name, values in everyone.items()
    }
    return next_batch(iter([item]))


def _look_ahead_of(model: list[MegatronModule]) -> Callable[[Any, int], Any] | None:
    """Return how the teacher of a student looks ahead, None for a model that has none."""
    teacher = getattr(unwrap_model(model[0]), _AHEAD, None)
    return teacher.look_ahead if teacher is not None else None
