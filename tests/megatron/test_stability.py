"""A step that would do harm is not taken, is on record, and changes nothing else."""

import json
import math
from typing import Any

import pytest

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import DataError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig, StabilityConfig, TrainConfig

STEPS, BATCH = 8, 8
HARMED = "stopped_cases:train_harmed"
COMPLAINT = "nemo_bielik.megatron.stability:complaint"


@pytest.fixture(scope="module")
def make(student, tokens, tmp_path_factory):
    """Return a function that makes a run's settings from its stability's."""

    def make(changes: dict[str, Any] | None = None, **limits: Any) -> TrainConfig:
        values: dict[str, Any] = {
            "model": student,
            "train_data": tokens,
            "output": tmp_path_factory.mktemp("run") / "output",
            "iters": STEPS,
            "sequence_length": 32,
            "global_batch_size": BATCH,
            "micro_batch_size": BATCH // 2,
            "save_interval": 2,
            "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=0),
            "stability": StabilityConfig(**limits),
        }
        values |= changes or {}
        return DistillConfig(**values) if "teacher" in values else TrainConfig(**values)

    return make


def weights(config: TrainConfig) -> bytes:
    return (config.output / "model.safetensors").read_bytes()


def lines(config: TrainConfig, name: str) -> list[dict[str, Any]]:
    finished = config.output / "training"
    path = (finished if finished.is_dir() else work_directory(config.output)) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def skipped(call, make):
    """A run whose fifth step has gradients that are no numbers, with its weights' digests."""
    config = make(policy="skip")
    return config, call(HARMED, config, {5: "nan"})[0]


@pytest.mark.parametrize(
    ("loss", "grad_norm", "limits", "expected"),
    [
        (3.0, 9.0, {}, ""),
        (math.nan, 1.0, {}, "the loss is nan"),
        (1.0, math.inf, {}, "the gradient norm is inf"),
        (1.0, 9.0, {"grad_norm_limit": 9.0}, ""),
        (1.0, 9.5, {"grad_norm_limit": 9.0}, "the gradient norm is 9.5, above 9"),
        # of 1, 2, … 11 the median is 6 and the median distance from it 3: 6 + 2 · 1.4826 · 3
        (14.89, 1.0, {"loss_spike": 2.0, "window": 11}, ""),
        (14.90, 1.0, {"loss_spike": 2.0, "window": 11}, "the loss is 14.9 where it was 6 ± 4.4"),
        (99.0, 1.0, {"loss_spike": 2.0, "window": 12}, ""),
    ],
)
def test_what_speaks_against_a_step(call, loss, grad_norm, limits, expected):
    recent = [float(value) for value in (5, 11, 1, 7, 2, 9, 3, 10, 4, 8, 6)]
    assert call(COMPLAINT, loss, grad_norm, recent, StabilityConfig(**limits)) == [expected]


def test_a_skipped_step_moves_no_weight_and_the_schedule_goes_on(call, make, skipped):
    config, digests = skipped
    undisturbed = make()
    expected = call(HARMED, undisturbed, {})[0]
    assert [digests[step] for step in range(1, 6)] == [expected[step] for step in range(1, 6)]
    assert digests[6] == digests[5]
    assert len(set(digests.values())) == STEPS - 1
    rates = {line["step"]: line["learning_rate"] for line in lines(undisturbed, "metrics")}
    for line in lines(config, "metrics"):
        assert line["tokens"] == line["step"] * BATCH * 32
        if line["step"] == 5:
            assert line["skipped"] and "loss" not in line
        else:
            assert line["learning_rate"] == rates[line["step"]]


def test_the_batch_is_on_record(skipped):
    (incident,) = lines(skipped[0], "incidents")
    assert incident["step"] == 5
    assert incident["policy"] == "skip"
    assert incident["samples"] == [4 * BATCH, 5 * BATCH]
    assert incident["reason"] == "the gradient norm is nan"
    assert incident["loss"] == pytest.approx(lines(skipped[0], "metrics")[3]["loss"], rel=0.5)


@pytest.mark.parametrize(
    ("kind", "limits"),
    [("explosion", {"grad_norm_limit": 1e3}), ("spike", {"loss_spike": 12.0, "window": 10})],
)
def test_whatever_the_harm_the_step_is_not_taken(call, make, kind, limits):
    """A run ends the same whichever way its twelfth step is found to do harm."""
    longer = {"iters": 14, "save_interval": 0}
    expected, config = make(longer, policy="skip"), make(longer, policy="skip", **limits)
    call(HARMED, expected, {12: "nan"})
    call(HARMED, config, {12: kind})
    assert [incident["step"] for incident in lines(config, "incidents")] == [12]
    assert weights(config) == weights(expected)


def test_a_run_killed_after_a_skipped_step_continues_bit_for_bit(call, make, skipped):
    config = make(policy="skip")
    call(HARMED, config, {5: "nan"}, until=6)
    assert len(lines(config, "incidents")) == 1  # after the checkpoint of step 4: it will recur
    call(HARMED, config, {5: "nan"}, until=8)
    call(HARMED, config, {5: "nan"})
    assert len(lines(config, "incidents")) == 1
    assert weights(config) == weights(skipped[0])


def test_rolling_back_skips_the_batches_since_the_checkpoint(call, make):
    """The fourth step is harmful, the checkpoint is of the second: neither 3 nor 4 is taken."""
    config, expected = make(policy="rollback"), make(policy="skip")
    call(HARMED, config, {4: "nan"})
    call(HARMED, expected, {3: "nan", 4: "nan"})
    (incident,) = lines(config, "incidents")
    assert (incident["step"], incident["back_to"]) == (4, 2)
    assert [line["step"] for line in lines(config, "metrics")] == [1, 2, 5, 6, 7, 8]
    assert weights(config) == weights(expected)


def test_a_run_killed_after_rolling_back_continues_bit_for_bit(call, make):
    config, expected = make(policy="rollback"), make(policy="skip")
    call(HARMED, config, {4: "nan"}, until=6)
    call(HARMED, config, {})  # what is on record is skipped, harmful or not
    call(HARMED, expected, {3: "nan", 4: "nan"})
    assert weights(config) == weights(expected)


@pytest.fixture(scope="module")
def distilled(call, make, teacher, held_out):
    """Return a function that distils with some steps harmed, and returns settings and digests."""

    def run(harm: dict[int, str], policy: str, ranks: int = 1, **changes: Any) -> tuple[Any, Any]:
        parallel = ParallelConfig(data=ranks)
        values = {"iters": 6, "parallel": parallel, "eval_interval": 3, "eval_iters": 1}
        values |= {"validation_data": held_out, "temperature": 2.0, "label_weight": 0.3}
        config = make(values | {"teacher": teacher} | changes, policy=policy)
        return config, call(HARMED, config, harm, parallel=parallel)[0]

    return run


@pytest.mark.parametrize("ranks", [1, 2])
def test_distillation_skips_and_rolls_back_the_same(distilled, ranks):
    """The fourth step is harmful: it alone is skipped, or the third with it, after step 2's save.

    The teacher has no part in it: the checkpoint and the optimizer know the student alone.
    """
    skipped, digests = distilled({4: "nan"}, "skip", ranks)
    assert digests[5] == digests[4] != digests[3]
    assert len(set(digests.values())) == 5
    rolled, _ = distilled({4: "nan"}, "rollback", ranks)
    both, _ = distilled({3: "nan", 4: "nan"}, "skip", ranks)
    assert weights(rolled) == weights(both) != weights(skipped)
    (incident,) = lines(rolled, "incidents")
    assert (incident["step"], incident["back_to"]) == (4, 2)
    assert [line["step"] for line in lines(rolled, "metrics") if "loss" in line] == [1, 2, 5, 6]


def test_all_ranks_skip_what_is_harmful_on_one(call, make):
    parallel = ParallelConfig(data=2)
    changes = {"parallel": parallel, "iters": 4}
    config, expected = make(changes, policy="skip"), make(changes, policy="skip")
    first, second = call(HARMED, config, {2: "nan"}, rank=1, parallel=parallel)
    assert first == second
    assert first[3] == first[2] != first[1]
    call(HARMED, expected, {2: "nan"}, parallel=parallel)
    assert weights(config) == weights(expected)


def test_stopping_names_the_step_and_keeps_the_record(call, make):
    config = make()
    with pytest.raises(
        DataError, match=r"diverged at step 3: the gradient norm is nan; "
    ) as caught:
        call(HARMED, config, {3: "nan"})
    assert "\n" not in str(caught.value)
    assert [incident["step"] for incident in lines(config, "incidents")] == [3]
    assert not config.output.exists()


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_too_many_harmful_steps_stop_a_run_all_the_same(call, make, policy):
    config = make(policy=policy, max_incidents=2)
    harm = dict.fromkeys(range(2, STEPS + 1), "nan")
    with pytest.raises(DataError, match=r"3 incidents.*max_incidents"):
        call(HARMED, config, harm)
    assert len(lines(config, "incidents")) == 3
    assert not config.output.exists()
