"""A run that pauses on its way is the run that does not: same text, same rates, same weights."""

import json
from dataclasses import replace
from typing import Any

import plain_reference as plain
import pytest
import torch
from engine_room import VOCAB_SIZE

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig

DISTILL = "nemo_bielik.distill.stage:distill"
STEPS, BATCH, LENGTH = 8, 8, 32


@pytest.fixture(scope="module")
def make(student, teacher, tokens, held_out, tmp_path_factory):
    """Return a function that makes a distillation of eight steps."""

    def make(**changes: Any) -> DistillConfig:
        values: dict[str, Any] = {
            "model": student,
            "teacher": teacher,
            "train_data": [tokens],
            "validation_data": held_out,
            "output": tmp_path_factory.mktemp("run") / "output",
            "iters": STEPS,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH // 2,
            "save_interval": 3,
            "eval_interval": 2,
            "eval_iters": 1,
            "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1),
        }
        return DistillConfig(**values | changes)

    return make


def lines(config: DistillConfig) -> list[dict[str, Any]]:
    finished = config.output / "training"
    path = (finished if finished.is_dir() else work_directory(config.output)) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def figures(config: DistillConfig, name: str) -> dict[int, float]:
    return {line["step"]: line[name] for line in lines(config) if name in line}


@pytest.fixture(scope="module")
def paused(lanes, make):
    """A run in three parts: validated first, paused after four steps, then to its end."""
    config = make()
    seen = {}
    for step in (0, 4):
        lanes.run(DISTILL, replace(config, stop_after=step))
        assert not config.output.exists()
        seen[step] = lines(config)
    lanes.run(DISTILL, replace(config, stop_after=4))  # nothing is left to do
    assert lines(config) == seen[4]
    lanes.run(DISTILL, config)
    return config, seen


def test_it_ends_where_the_whole_run_ends(lanes, make, paused):
    whole = make()
    lanes.run(DISTILL, whole)
    config, _ = paused
    for name in ("loss", "learning_rate", "grad_norm"):
        assert figures(config, name) == figures(whole, name)
    validations = figures(config, "validation_loss")
    validations.pop(0)
    assert validations == figures(whole, "validation_loss")
    weights = [run.output / "model.safetensors" for run in (config, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_part_ends_with_its_validation_and_checkpoint(paused):
    _, seen = paused
    assert [line["step"] for line in seen[0]] == [0]
    assert max(line["step"] for line in seen[4]) == 4
    assert [line["step"] for line in seen[4] if "validation_loss" in line] == [0, 2, 4]


def test_what_it_starts_from_is_validated_as_plain_transformers_would(
    call, paused, student, teacher, held_out, tmp_path
):
    samples = call("engine_cases:packed_samples", held_out, BATCH, LENGTH, 1, VOCAB_SIZE, tmp_path)[
        0
    ]
    with torch.no_grad():
        given, wanted = (
            plain.packed_logits(plain.load(model), samples["tokens"])
            for model in (student, teacher)
        )
    kl = plain.masked_mean(plain.token_kl(given, wanted, 1.0), samples["tokens"]).item()
    assert figures(paused[0], "validation_loss")[0] == pytest.approx(kl, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stop_after": -1}, "stop_after is -1; it must be 0 or more"),
        ({"stop_after": 4, "save_interval": 0}, "stop_after=4 needs a save_interval above 0"),
        ({"stop_after": 0, "eval_interval": 0}, "stop_after=0 needs an eval_interval above 0"),
    ],
)
def test_pauses_that_cannot_be_are_one_line(make, changes, said):
    with pytest.raises(ConfigError, match=said):
        make(**changes)
