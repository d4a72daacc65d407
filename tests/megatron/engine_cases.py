"""Functions that tests run in the lanes, where Megatron is imported; they return plain values."""

import importlib
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nemo_bielik.parallel import ParallelConfig


def answer(case: Any) -> None:
    """Run the function of an `engine_room.Call` and leave its value in a file for each rank."""
    module, _, name = case.function.partition(":")
    value = getattr(importlib.import_module(module), name)(*case.arguments, **case.keywords)
    torch.save(value, case.results / f"{os.environ.get('RANK', '0')}.pt")


def round_trip(
    model: Path, parallel: ParallelConfig, tokens: Tensor, output: Path | None = None
) -> Tensor | None:
    """Return the Megatron model's logits [b, s, vocab] of single-document rows, in float64.

    Only the last pipeline stage has them. Exports the model to `output` as well, if given.
    """
    from nemo_bielik.megatron.model import export_model, inference_model

    positions = torch.arange(tokens.size(1)).repeat(len(tokens), 1)
    with inference_model(model, parallel, tokens.size(1), precision="fp64") as (bridge, chunks):
        found = whole_logits(chunks, tokens, positions)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            export_model(bridge, chunks, model, output)
    return found


def whole_logits(chunks: Any, tokens: Tensor, positions: Tensor) -> Tensor | None:
    """Forward one micro-batch through all pipeline stages; gather the vocabulary's slices."""
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region

    from nemo_bielik.megatron.batches import Batch

    batch = Batch(tokens, tokens, torch.ones_like(tokens), positions)

    def forward_step(_: Any, chunk: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        return chunk(**batch.model_inputs()), lambda logits: (logits.sum(), {"logits": logits})

    with torch.no_grad():
        reports = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=None,
            model=chunks,
            num_microbatches=1,
            seq_length=tokens.size(1),
            micro_batch_size=len(tokens),
            forward_only=True,
        )
    if not reports:
        return None
    return gather_from_tensor_model_parallel_region(reports[0]["logits"])


def layer_counts(most_layers: int, most_stages: int) -> dict[tuple[int, int], list[int] | None]:
    """Return the decoder layers of every stage of every `pipeline_layout`."""
    from nemo_bielik.megatron.model import pipeline_layout

    counts: dict[tuple[int, int], list[int] | None] = {}
    for layers in range(1, most_layers + 1):
        for stages in range(1, min(layers, most_stages) + 1):
            layout = pipeline_layout(layers, stages)
            counts[layers, stages] = layout and [stage.count("decoder") for stage in layout]
    return counts


def packed_samples(
    tokens: Path,
    samples: int,
    length: int,
    seed: int,
    vocab_size: int,
    cache: Path,
    packing: Any = "auto",
) -> dict[str, Tensor]:
    """Return the sequences of `packed_dataset`, field by field, each [samples, length]."""
    from nemo_bielik.megatron.batches import packed_dataset

    dataset = packed_dataset(tokens, samples, length, seed, vocab_size, cache, packing)
    rows = [dataset[number] for number in range(samples)]
    return {
        name: torch.stack([torch.as_tensor(row[name]) for row in rows])
        for name in ("tokens", "labels", "loss_mask", "position_ids")
    }


def source_of(module: str) -> str:
    return inspect.getsource(importlib.import_module(module))


def checkpoint_queue() -> tuple[str, list[str]]:
    """Return the type of the checkpoint writers' queue and the processes that making it started."""
    import psutil

    from nemo_bielik.megatron.upstream_fixes import install_checkpoint_queue

    before = {child.pid for child in psutil.Process().children()}
    install_checkpoint_queue()
    module = "megatron.core.dist_checkpointing.strategies.filesystem_async"
    queue = importlib.import_module(module)._get_write_results_queue()
    started = [p.name() for p in psutil.Process().children() if p.pid not in before]
    return type(queue).__name__, started


def log_twice(first: Path, second: Path) -> None:
    """Have the root logger speak where one file is the terminal, then where another one is."""
    from nemo_bielik.megatron.model import quiet

    for path in (first, second):
        with quiet(path):
            logging.error("one record for %s", path.name)  # Bridge filters warnings out
            print("and a line")
