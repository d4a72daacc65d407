"""Tensors from the ranks that have them to the ranks that need them, between two layouts."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor


@dataclass(frozen=True)
class Message:
    """One tensor's way from rank to rank, as a rank sees it: others' tensors are None.

    Args:
        given: what the sender sends.
        taken: contiguous, of the same shape and type: where the receiver puts it.
    """

    sender: int
    receiver: int
    given: Tensor | None
    taken: Tensor | None


def exchange(messages: Iterable[Message]) -> None:
    """Deliver all messages; every rank calls with the same ones in the same order."""
    rank = dist.get_rank()
    operations = []
    for message in messages:
        if rank == message.sender:
            assert message.given is not None
            if rank == message.receiver:
                assert message.taken is not None
                message.taken.copy_(message.given)
                continue
            given = message.given.contiguous()
            operations.append(dist.P2POp(dist.isend, given, message.receiver))
        elif rank == message.receiver:
            assert message.taken is not None
            operations.append(dist.P2POp(dist.irecv, message.taken, message.sender))
    for request in dist.batch_isend_irecv(operations) if operations else []:
        request.wait()


@dataclass(frozen=True)
class Part:
    """Some rows of what one of several ranks holds of a matrix."""

    place: int
    rows: slice


def row_routes(rows: int, having: int, wanting: int) -> Iterator[tuple[Part, Part]]:
    """Yield (from, to) for a matrix split evenly over `having` ranks, wanted over `wanting`."""
    have, want = rows // having, rows // wanting
    size = math.gcd(have, want)
    for row in range(0, rows, size):
        here, there = row % have, row % want
        yield (
            Part(row // have, slice(here, here + size)),
            Part(row // want, slice(there, there + size)),
        )


def last_stage_ranks() -> list[list[int]]:
    """Return the ranks of the last pipeline stage, [data-parallel rank][tensor-parallel rank].

    They are those of the layout that ``parallel_state`` knows at the moment; every rank calls.
    """
    place = (
        parallel_state.is_pipeline_last_stage(),
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
    )
    places: list[tuple[bool, int, int]] = [place] * dist.get_world_size()
    dist.all_gather_object(places, place)
    tensor_ranks = parallel_state.get_tensor_model_parallel_world_size()
    ranks = sorted((data, t, rank) for rank, (last, data, t) in enumerate(places) if last)
    in_order = [rank for _, _, rank in ranks]
    return [in_order[i : i + tensor_ranks] for i in range(0, len(in_order), tensor_ranks)]
