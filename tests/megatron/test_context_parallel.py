"""Ranks that share each sequence train as one rank does that has all of it.

Distillation and training on labels are beside the other layouts in `test_engine.py`, a run that
goes on so in `test_layouts.py`, fine-tuning in `test_supervised.py`.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_room import ENGINE
from safetensors.torch import load_file

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.launch.lanes import Lanes
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import LoraConfig, OptimConfig, TrainConfig

TRAIN = "nemo_bielik.training:train"
DISTILL = "nemo_bielik.distill.stage:distill"
#: Pieces of 8 tokens on two ranks, of 4 on four; documents have 5 to 40.
LENGTH, STEPS = 32, 4
CONTEXT = ParallelConfig(context=2)


@pytest.fixture(scope="module")
def settings(tokens, held_out) -> dict[str, Any]:
    return {
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": 8,
        "micro_batch_size": 2,
        "eval_interval": 2,
        "eval_iters": 1,
        # the norm is not cut, and the rate is high enough that a wrong step shows
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1, clip_grad=0.0),
    }


@pytest.fixture(scope="module")
def config(student, settings, tmp_path_factory):
    """Return a function that gives the settings of a training on labels, some of them changed."""

    def config(**changes: Any) -> TrainConfig:
        output = tmp_path_factory.mktemp("run") / "output"
        return TrainConfig(**{"model": student, "output": output} | settings | changes)

    return config


@pytest.fixture(scope="module")
def train(lanes, config):
    """Return a function that trains so; a run is its output."""

    def train(**changes: Any) -> Path:
        chosen = config(**changes)
        lanes.run(TRAIN, chosen)
        return chosen.output

    return train


@pytest.fixture(scope="module")
def trained(train) -> Path:
    return train()


@pytest.fixture(scope="module")
def on_four() -> Iterator[Callable[[TrainConfig], Path]]:
    """Return a function that runs a training, or a distillation, on four ranks."""
    with Lanes(1) as lane:
        lane.warm(ENGINE)

        def run(chosen: TrainConfig) -> Path:
            lane.submit("context_cases:run_on_forks", chosen).result()
            return chosen.output

        yield run


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "training" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def values(output: Path, name: str) -> list[float]:
    return [line[name] for line in lines(output) if name in line]


def assert_same_training(found: Path, expected: Path, steps: int = STEPS) -> None:
    assert len(set(values(expected, "loss"))) == steps  # it did move
    for name, tolerance in (("loss", 1e-5), ("validation_loss", 1e-5), ("grad_norm", 1e-4)):
        assert values(found, name) == pytest.approx(values(expected, name), rel=tolerance), name
    exported = load_file(found / "model.safetensors")
    for name, weights in load_file(expected / "model.safetensors").items():
        torch.testing.assert_close(exported[name], weights, rtol=1e-3, atol=1e-4)


def test_layers_that_are_computed_again(train, trained):
    assert_same_training(train(parallel=CONTEXT, recompute=True), trained)


def test_adapters(train):
    lora = LoraConfig(rank=2)
    assert_same_training(train(parallel=CONTEXT, lora=lora), train(lora=lora))


def test_classes_of_tokens_are_counted_once(lanes, settings, student, teacher, tmp_path):
    """Every rank reports its part of a micro-batch."""
    tables = []
    for layout in (ParallelConfig(), CONTEXT):
        output = tmp_path / str(layout.context)
        given = {"model": student, "teacher": teacher, "output": output, "parallel": layout}
        lanes.run(DISTILL, DistillConfig(**{**settings, **given, "iters": 2}))
        (table,) = values(output, "classes")
        tables.append(table)
    whole, split = tables
    assert set(whole) == set(split) and len(whole) > 3
    for name, figures in whole.items():
        assert split[name]["tokens"] == figures["tokens"]
        assert split[name] == pytest.approx(figures, rel=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(context=4),
        ParallelConfig(context=2, tensor=2),
        ParallelConfig(context=2, pipeline=2),
        ParallelConfig(context=2, data=2),
    ],
    ids=["context=4", "tensor=2", "pipeline=2", "data=2"],
)
def test_four_ranks(on_four, config, trained, layout):
    assert_same_training(on_four(config(parallel=layout)), trained)


def test_teacher_and_student_share_sequences_and_stages(
    on_four, lanes, settings, student, teacher, tmp_path
):
    """Both models' hidden states travel between stages, a context rank's part of each."""
    outputs = []
    for layout in (ParallelConfig(), ParallelConfig(context=2, pipeline=2)):
        given = {"model": student, "teacher": teacher, "output": tmp_path / str(layout.context)}
        chosen = DistillConfig(**{**settings, **given, "parallel": layout})
        if layout.processes == 1:
            lanes.run(DISTILL, chosen)
        else:
            on_four(chosen)
        outputs.append(chosen.output)
    assert_same_training(outputs[1], outputs[0])
