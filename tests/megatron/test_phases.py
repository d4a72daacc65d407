"""Phases of one run: shapes and data change, the optimizer and its schedule go on."""

import json
import math
from typing import Any

import plain_reference as plain
import pytest
from engine_room import VOCAB_SIZE

from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.phases import Phase
from nemo_bielik.training import OptimConfig, TrainConfig

TRAIN = "nemo_bielik.training:train"
MAX_LR, MIN_LR, WARMUP, STEPS = 1e-2, 1e-3, 2, 7


@pytest.fixture(scope="module")
def make(student, tokens, held_out, tmp_path_factory):
    """Return a function that makes a run of 3 steps and then 4 of another shape on other text."""

    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": student,
            "train_data": [tokens],
            "validation_data": held_out,
            "output": tmp_path_factory.mktemp("run") / "output",
            "sequence_length": 32,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "save_interval": 2,
            "eval_interval": 2,
            "eval_iters": 1,
            "phases": [
                Phase(iters=3),
                Phase(
                    iters=4,
                    sequence_length=16,
                    global_batch_size=4,
                    micro_batch_size=2,
                    train_data=[held_out],
                ),
            ],
            "optim": OptimConfig(max_lr=MAX_LR, min_lr=MIN_LR, warmup_iters=WARMUP, clip_grad=0.0),
        }
        return TrainConfig(**values | changes)

    return make


@pytest.fixture(scope="module")
def finished(lanes, make):
    config = make()
    lanes.run(TRAIN, config)
    return config


def lines(config: TrainConfig) -> list[dict[str, Any]]:
    text = (config.output / "training" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def values(config: TrainConfig, name: str) -> list[float]:
    return [line[name] for line in lines(config) if name in line]


def weights(config: TrainConfig) -> bytes:
    return (config.output / "model.safetensors").read_bytes()


def rate(step: int) -> float:
    """The rate of a step counted from 0: a linear warm-up, then a cosine to the last step."""
    if step <= WARMUP:
        return MAX_LR * step / WARMUP
    share = (step - WARMUP) / (STEPS - WARMUP)
    return MIN_LR + (MAX_LR - MIN_LR) * (1 + math.cos(math.pi * share)) / 2


def test_the_learning_rate_goes_on_in_steps(finished):
    # Bridge reports the rate that the next step will take
    expected = [rate(step) for step in range(1, STEPS + 1)]
    assert values(finished, "learning_rate") == pytest.approx(expected, rel=1e-6)


def test_losses_are_those_of_one_optimizer_in_plain_torch(
    call, finished, tokens, held_out, student, tmp_path
):
    """Weights, moments, their age and the rate carry over; phase 2 reads its text from the top."""
    arguments = [(tokens, 3 * 8, 32), (held_out, 4 * 4, 16)]
    first, second = (
        call("engine_cases:packed_samples", *a, 1, VOCAB_SIZE, tmp_path / str(a[2]))[0]
        for a in arguments
    )
    batches = [plain.rows_of(first, 8 * n, 8 * (n + 1)) for n in range(3)]
    batches += [plain.rows_of(second, 4 * n, 4 * (n + 1)) for n in range(4)]
    model = plain.load(student)
    optimizer = plain.adamw(model, weight_decay=0.1, betas=(0.9, 0.95))
    losses = []
    for step, rows in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        loss = plain.unpacked_loss(model, rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert values(finished, "loss") == pytest.approx(losses, rel=1e-4)


def test_tokens_and_validations_follow_the_phases(finished):
    # 8 · 32 a step, then 4 · 16
    assert values(finished, "tokens") == [256, 512, 768, 832, 896, 960, 1024]
    validated = [line["step"] for line in lines(finished) if "validation_loss" in line]
    assert validated == [2, 4, 6, 7]
    assert finished.tokens == 1024


@pytest.mark.parametrize("passes", [5, 6, 11], ids=["phase 1", "between them", "phase 2"])
def test_a_run_killed_in_any_phase_continues_bit_for_bit(call, make, lanes, finished, passes):
    """Two forward passes a step, in either phase."""
    config = make(eval_interval=0)
    call("stopped_cases:train_until", config, passes)
    lanes.run(TRAIN, config)
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        assert values(config, name) == values(finished, name), name
    assert weights(config) == weights(finished)


def test_data_parallel_ranks_go_through_phases_together(lanes, make, finished):
    config = make(parallel=ParallelConfig(data=2), save_interval=100)
    lanes.run(TRAIN, config)
    assert values(config, "loss") == pytest.approx(values(finished, "loss"), rel=1e-5)
    assert values(config, "validation_loss") == pytest.approx(
        values(finished, "validation_loss"), rel=1e-5
    )


def test_rolling_back_in_a_later_phase(call, make):
    """The sixth step is harmful, the checkpoint before it of the fourth."""
    from nemo_bielik.training import StabilityConfig

    policies = {"rollback": {6: "nan"}, "skip": {5: "nan", 6: "nan"}}
    found = []
    for policy, harm in policies.items():
        config = make(eval_interval=0, stability=StabilityConfig(policy=policy))
        call("stopped_cases:train_harmed", config, harm)
        found.append(config)
    assert weights(found[0]) == weights(found[1])
    text = (found[0].output / "training" / "incidents.jsonl").read_text()
    # 3 · 8 in the first phase, two steps of 4 in the second
    assert json.loads(text)["samples"] == [32, 36]
