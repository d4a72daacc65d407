"""Micro-batches through all pipeline stages of a model, outside of training."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from megatron.core.pipeline_parallel import get_forward_backward_func

#: What a micro-batch's pass gives to the last stage: a loss and a report, of the output.
ForwardStep = Callable[[Iterator[Any], Any], tuple[Any, Callable[..., Any]]]


class Shape(Protocol):
    """The sizes of a micro-batch, as the settings of every stage name them."""

    @property
    def sequence_length(self) -> int:
        """Tokens a sequence."""

    @property
    def micro_batch_size(self) -> int:
        """Sequences a micro-batch."""


def run_schedule(
    step: ForwardStep,
    model: list[Any],
    batches: Iterable[Any],
    count: int,
    shape: Shape,
    *,
    backward: bool = False,
) -> list[dict[str, Any]]:
    """Run the next `count` of `batches` forward, and on request backward; return their reports.

    Only the last pipeline stage has reports. Whether gradients are recorded is the caller's choice.
    """
    reports: list[dict[str, Any]] = get_forward_backward_func()(
        forward_step_func=step,
        data_iterator=iter(batches),
        model=model,
        num_microbatches=count,
        seq_length=shape.sequence_length,
        micro_batch_size=shape.micro_batch_size,
        forward_only=not backward,
    )
    return reports
