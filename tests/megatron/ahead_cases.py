"""Functions for the lanes: a teacher in its own layout, what ranks hold of it, broken-off runs."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch

from nemo_bielik.distill.stage import DistillConfig, distill


class EndedAbruptly(Exception):
    """What ends the training."""


def dealt(
    micro_batches: int, size: int, students: int, teachers: int
) -> list[tuple[int, int, range]]:
    """Return `deal`'s pieces as (micro-batch, student's replica, rows)."""
    from nemo_bielik.megatron.teacher_ahead import deal

    pieces = deal(micro_batches, size, students, teachers)
    return [(p.micro_batch, p.replica, range(p.rows.start, p.rows.stop)) for p in pieces]


def routed(matrix: torch.Tensor, having: int, wanting: int) -> list[torch.Tensor]:
    """Return what `row_routes` brings to each of `wanting` ranks; rows not brought are NaN."""
    from nemo_bielik.megatron.rank_exchange import row_routes

    given = matrix.chunk(having)
    taken = [torch.full_like(part, torch.nan) for part in matrix.chunk(wanting)]
    for here, there in row_routes(len(matrix), having, wanting):
        assert taken[there.place][there.rows].isnan().all()
        taken[there.place][there.rows] = given[here.place][here.rows]
    return taken


def sizes_within_and_after(tensor: int, pipeline: int) -> tuple[list[int], list[int], list[int]]:
    """Return (tensor, pipeline, data) sizes before, within and after a `SecondLayout`.

    It is left by an error.
    """
    from megatron.core import parallel_state

    from nemo_bielik.megatron.model import distributed_session
    from nemo_bielik.megatron.upstream_fixes import SecondLayout

    def sizes() -> list[int]:
        return [
            parallel_state.get_tensor_model_parallel_world_size(),
            parallel_state.get_pipeline_model_parallel_world_size(),
            parallel_state.get_data_parallel_group().size(),
        ]

    with distributed_session():
        parallel_state.initialize_model_parallel()
        before = sizes()
        layout = SecondLayout(
            tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline
        )
        with contextlib.suppress(EndedAbruptly), layout:
            within = sizes()
            raise EndedAbruptly
        return before, within, sizes()


def held(config: DistillConfig) -> dict[str, int]:
    """Distil; return how many numbers this rank held of the teacher and of what is trained."""
    from nemo_bielik.megatron.stability import StepGuard
    from nemo_bielik.megatron.teacher_ahead import AheadTeacher

    found: dict[str, int] = {}

    def look_ahead(usual: Callable[..., Any], self: Any, *arguments: Any) -> Any:
        assert self.model is not None
        parameters = list(self.model.chunk.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in parameters)
        assert not any(hasattr(p, "main_grad") for p in parameters)
        found["teacher"] = numbers(parameters)
        found["output weight"] = 0 if self.weight is None else numbers([self.weight])
        return usual(self, *arguments)

    def on_train_step_start(usual: Callable[..., Any], self: Any, context: Any) -> None:
        groups = context.optimizer.param_groups
        found["optimizer"] = sum(p.numel() for group in groups for p in group["params"])
        found["gradients"] = sum(p.numel() for b in context.model[0].buffers for p in b.params)
        usual(self, context)

    with (
        replaced(AheadTeacher, "look_ahead", look_ahead),
        replaced(StepGuard, "on_train_step_start", on_train_step_start),
    ):
        distill(config)
    return found


def numbers(tensors: Collection[torch.Tensor]) -> int:
    """Return how many numbers the memory behind some tensors holds."""
    memory = {t.untyped_storage().data_ptr(): t for t in tensors}
    return sum(t.untyped_storage().nbytes() // t.itemsize for t in memory.values())


def distil_harmed(config: DistillConfig, harm: Collection[int] = (), until: int = 0) -> None:
    """Distil with the gradients of some steps (counted from 1) no numbers; break off at `until`."""
    from nemo_bielik.megatron.objectives import Distillation

    def step(usual: Callable[..., Any], self: Any, state: Any, data: Any, model: Any) -> Any:
        number = state.train_state.step + 1
        if model.training and number == until:
            raise EndedAbruptly
        output, loss = usual(self, state, data, model)
        if not model.training or number not in harm:
            return output, loss

        def harmed(output: Any) -> Any:
            total, count, report = loss(output)
            return total * torch.nan, count, report

        return output, harmed

    with contextlib.suppress(EndedAbruptly), replaced(Distillation, "__call__", step):
        distill(config)


@contextlib.contextmanager
def replaced(kind: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Have `method` answer in the place of a method, which it gets as its first argument."""
    usual = getattr(kind, name)
    setattr(kind, name, lambda *args: method(usual, *args))
    try:
        yield
    finally:
        setattr(kind, name, usual)
