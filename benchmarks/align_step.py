"""What the benchmarks of alignment share: a random model, an objective of the engine, one step."""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Batch = dict[str, Any]


def write_model(directory: Path, sizes: dict[str, Any]) -> Path:
    """Write a random model and return its directory."""
    from nemo_bielik.arch import ModelArch
    from nemo_bielik.initialize import write_random

    directory.mkdir(parents=True)
    write_random(ModelArch(name=directory.name, **sizes), 1, directory, {})
    return directory


def build(objective: Any, model: Path, length: int) -> Any:
    """Return the model as `objective` trains it, gradients allocated; a session must be open."""
    import torch

    from nemo_bielik.megatron.model import model_provider, open_bridge
    from nemo_bielik.training import TrainConfig

    config = TrainConfig(model=model, train_data=[model], output=model, sequence_length=length)
    provider = model_provider(open_bridge(model), config.parallel, config.precision, length)
    provider = objective.prepare(provider, config)
    provider.finalize()
    provider.initialize_model_parallel(seed=1)
    built = provider.provide_distributed_model(wrap_with_ddp=False)[0]
    for parameter in built.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return built


def step_of(objective: Any, model: Any, batches: Iterable[Batch]) -> Callable[[], float]:
    """Return what does all forward and backward passes and returns the loss; no optimizer."""

    def step() -> float:
        total, count = 0.0, 0
        for batch in batches:
            output, loss = objective(None, iter([batch]), model)
            value, number, _ = loss(output)
            value.backward()
            total, count = total + float(value), count + int(number)
        for parameter in model.parameters():
            parameter.grad.zero_()
        return total / count

    return step


def make_documents(lengths: Iterable[int], vocab_size: int, prompt: float = 0.5) -> list[Any]:
    """Return documents of random tokens, and what is learned: all behind the prompt's share."""
    import numpy as np

    generator = np.random.default_rng(1)
    found = []
    for length in lengths:
        learned = np.arange(length) >= int(length * prompt)
        found.append((generator.integers(3, vocab_size, length), learned.astype(np.float32)))
    return found


def make_row(documents: list[Any], length: int) -> Batch:
    """Return one row [1, length] that holds documents end to end, the rest padding."""
    import numpy as np
    import torch

    row: Batch = {
        "tokens": np.zeros(length, np.int64),
        "labels": np.zeros(length, np.int64),
        "loss_mask": np.zeros(length, np.float32),
        "position_ids": np.arange(length),
    }
    end = 0
    for tokens, learned in documents:
        first, end = end, end + len(tokens)
        row["tokens"][first:end] = tokens
        row["labels"][first : end - 1] = tokens[1:]
        row["loss_mask"][first : end - 1] = learned[1:]
        row["position_ids"][first:end] -= first
    row["position_ids"][end:] -= end
    return {name: torch.from_numpy(values)[None] for name, values in row.items()}


def random_reference(directory: Path, batch: Batch) -> Path:
    """Write a store that holds some log-probability for every answer of a batch."""
    import numpy as np

    from nemo_bielik.align.reference import ANSWER, STAGE, write_store
    from nemo_bielik.manifest import Manifest
    from nemo_bielik.megatron.batches import Batch as Fields
    from nemo_bielik.megatron.reference_pass import answers_of

    answers = answers_of(Fields(**batch))
    found = np.empty(len(answers.keys), ANSWER)
    found["key"], found["log_prob"] = answers.keys, -10.0 * answers.positions
    directory.mkdir()
    results = write_store(directory, found)
    manifest = Manifest(stage=STAGE, config={"sequence_length": batch["tokens"].size(1)})
    dataclasses.replace(manifest, results=results).save(directory)
    return directory


def answer(line: str) -> None:
    """Write to the parent; Megatron's chatter goes to stderr."""
    print(line, file=sys.__stdout__, flush=True)
