"""Preflight: the arithmetic of what a run will cost, and reasons against it."""

from pathlib import Path

import pytest

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.options import parse_config
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.planner.training_memory import Layout, Workload, peak_memory
from nemo_bielik.preflight import (
    Cost,
    PreflightDistillConfig,
    PreflightSettings,
    cost,
    describe_cost,
    describe_memory,
    describe_ranks,
    differences,
    planned_memory,
    reasons_against,
    short_run,
)

WORDS = ["model=/m", "teacher=/t", "train_data=/d", "output=/o/student", "iters=3600"]
WORDS += ["global_batch_size=8", "sequence_length=1000", "parallel.tensor=2", "parallel.data=2"]


def config(*words):
    return parse_config(PreflightDistillConfig, [*WORDS, *words], "test")


def test_the_trial_is_the_stage_with_a_few_steps_and_an_output_of_its_own():
    given = ["save_interval=5", "eval_interval=5", "validation_data=/v", "keep=best"]
    trial = short_run(config(*given, "preflight.iters=3", "optim.warmup_iters=50"), DistillConfig)
    assert type(trial) is DistillConfig
    assert trial.output.parent == Path("/o")
    assert trial.output.name != "student"
    assert (trial.iters, trial.save_interval, trial.eval_interval) == (5, 0, 0)
    assert trial.optim.warmup_iters < trial.iters
    assert (trial.parallel.processes, trial.global_batch_size) == (4, 8)


def test_hours_follow_from_the_median_step():
    """Steps of 2 s after two slow first ones and one hiccup: 3,600 of them are two hours."""
    times = [30.0, 40.0, 42.0, 44.0, 64.0, 66.0, 68.0]
    found = cost(times, config())
    assert found == Cost(step_seconds=2.0, tokens_per_second=4000.0, hours=2.0, gpu_hours=8.0)
    lines = describe_cost(found, config())
    assert lines[0] == "step: 2.000 s, 4,000 tokens/s"
    assert "3,600 steps (28,800,000 tokens): 2.00 hours on 4 ranks = 8.00 GPU-hours" in lines[1]


def test_what_memory_was_taken_stands_beside_what_was_planned():
    used = [(50 * 10**9, 10**11), (75 * 10**9, 10**11)]
    assert describe_memory(used, 70.04e9) == [
        "GPU memory taken: 50% to 75%, at most 75.0 GB; planned: 70.0 GB"
    ]
    assert describe_memory(used, None) == ["GPU memory taken: 50% to 75%, at most 75.0 GB"]


def test_the_plan_is_that_of_the_models_at_hand(make_model):
    """Its weights and gradients, 6 bytes each, and 12 more on each of two data ranks' halves."""
    student, teacher = make_model(num_hidden_layers=2), make_model(seed=1, num_hidden_layers=3)
    words = [f"model={student}", f"teacher={teacher}", "parallel.tensor=1", "precision=bf16"]
    arches = [Checkpoint.open(path).arch for path in (student, teacher)]
    parts = peak_memory(Workload(*arches, 1000, 8), Layout(1, 1, 2, 1, False, False))
    held = count_parameters(arches[0])
    assert parts["weights"] + parts["gradients"] == 6 * held and parts["optimizer"] == 6 * held
    own = sum(size for name, size in parts.items() if name != "context")
    assert planned_memory(config(*words)) == pytest.approx(own)
    assert planned_memory(config(*words, "precision=fp32")) is None


@pytest.mark.parametrize(
    ("limits", "reasons"),
    [
        ({}, []),
        ({"min_gb_per_second": 100.0, "max_hours": 2.0, "max_memory": 0.9}, []),
        ({"min_gb_per_second": 101.0}, ["100.0 GB/s between ranks, below 101"]),
        ({"max_hours": 1.5}, ["2.0 hours, above 1.5"]),
        ({"max_memory": 0.5}, ["90% of a GPU's memory, above 50%"]),
    ],
)
def test_reasons_against(limits, reasons):
    found = Cost(step_seconds=2.0, tokens_per_second=4000.0, hours=2.0, gpu_hours=8.0)
    assert reasons_against(PreflightSettings(**limits), 100.0, found, 0.9) == reasons


def test_ranks_are_told_by_host_and_differences_stand_out():
    ranks = [
        {"host": host, "device": "H200", "versions": {"torch": torch, "NCCL": "2.27"}}
        for host, torch in (("b", "2.11"), ("a", "2.11"), ("a", "2.10"))
    ]
    assert describe_ranks(ranks) == [
        "a: 2 ranks, H200",
        "b: 1 ranks, H200",
        "torch: DIFFERS, ['2.10', '2.11']",
        "NCCL: 2.27",
    ]


def test_what_ranks_should_share_and_do_not_is_a_reason():
    def rank(device, torch):
        return {"host": "a", "device": device, "versions": {"torch": torch, "NCCL": "2.27"}}

    assert differences([rank("H200", "2.11")] * 2) == []
    assert differences([rank("H200", "2.11"), rank("H100", "2.10")]) == [
        "devices differ: ['H100', 'H200']",
        "torch differ: ['2.10', '2.11']",
    ]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="must be at least 1"):
        config("preflight.iters=0")
    with pytest.raises(ConfigError, match=r"preflight.max_memory is 1.5; it must be in \(0, 1\]"):
        config("preflight.max_memory=1.5")
