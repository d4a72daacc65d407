"""A teacher in a layout of its own teaches what one in its student's layout teaches."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_room import TEACHER
from safetensors.torch import load_file

from nemo_bielik.distill.stage import DistillConfig, TeacherParallelConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import OptimConfig, StabilityConfig

DISTILL = "nemo_bielik.distill.stage:distill"
LENGTH, BATCH, STEPS = 32, 8, 4
TENSOR, PIPELINE, DATA = (
    ParallelConfig(tensor=2),
    ParallelConfig(pipeline=2),
    ParallelConfig(data=2),
)
#: (student's layout, teacher's tensor-parallel size, teacher's stages) on two ranks
LAYOUTS = {
    "data=2, teacher tensor=2": (DATA, 2, 1),
    "data=2, teacher pipeline=2": (DATA, 1, 2),
    "tensor=2, teacher data=2": (TENSOR, 1, 1),
    "pipeline=2, teacher tensor=2": (PIPELINE, 2, 1),
    "pipeline=2, teacher data=2": (PIPELINE, 1, 1),
}


@pytest.fixture(scope="module")
def settings(student, teacher, tokens, held_out):
    return {
        "model": student,
        "teacher": teacher,
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": 2,
        "eval_interval": 2,
        "eval_iters": 2,
        # the norm is not cut, and the rate is high enough that a wrong step shows
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1, clip_grad=0.0),
    }


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, settings):
    """Return a function that distils with some settings changed and returns the output."""

    def run(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        lanes.run(DISTILL, DistillConfig(**settings | {"output": output} | changes))
        return output

    return run


def values(output: Path, name: str) -> list[float]:
    lines = map(json.loads, (output / "training" / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def assert_same_training(found: Path, expected: Path) -> None:
    for name, count in (("loss", STEPS), ("validation_loss", 2), ("grad_norm", STEPS)):
        assert len(set(values(expected, name))) == count, "it did not move"
        assert values(found, name) == pytest.approx(values(expected, name), rel=1e-5), name
    weights = load_file(found / "model.safetensors")
    for name, expected_weights in load_file(expected / "model.safetensors").items():
        torch.testing.assert_close(weights[name], expected_weights, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def one_process(run):
    return run()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_teachers_layout_changes_nothing(run, one_process, name):
    parallel, tensor, pipeline = LAYOUTS[name]
    layout = TeacherParallelConfig(tensor=tensor, pipeline=pipeline)
    assert_same_training(run(parallel=parallel, teacher_parallel=layout), one_process)


def test_a_tied_teacher_on_uneven_stages(run, make_model, uneven_student):
    """Its output weight is its embedding, on its first stage; the student's stages are uneven."""
    tied = {"tie_word_embeddings": True, "num_hidden_layers": 5}
    pair = {"teacher": make_model(seed=4, **TEACHER | tied), "model": uneven_student}
    expected = run(**pair)
    across = TeacherParallelConfig(pipeline=2, tensor=1)
    assert_same_training(run(**pair, parallel=TENSOR, teacher_parallel=across), expected)
    alone = TeacherParallelConfig(pipeline=1)
    assert_same_training(run(**pair, parallel=PIPELINE, teacher_parallel=alone), expected)


def test_bf16_goes_the_same_way(run):
    """Both layouts round otherwise; a bf16 number has 8 bits."""
    layout = TeacherParallelConfig(pipeline=2)
    expected = run(precision="bf16", parallel=DATA)
    found = run(precision="bf16", parallel=DATA, teacher_parallel=layout)
    assert values(found, "loss") == pytest.approx(values(expected, "loss"), rel=1e-2)


# --- stopped, continued, harmed


@pytest.fixture(scope="module")
def saved(settings):
    """Return a function that makes the settings of a run that saves every second step."""
    changes = {
        "parallel": DATA,
        "teacher_parallel": TeacherParallelConfig(pipeline=2),
        "iters": 6,
        "eval_interval": 3,
        "save_interval": 2,
    }

    def saved(output: Path, **limits: Any) -> DistillConfig:
        stability = StabilityConfig(**limits)
        return DistillConfig(**settings | changes, output=output, stability=stability)

    return saved


def test_a_run_that_ends_abruptly_continues_bit_for_bit(call, saved, tmp_path):
    expected, found = saved(tmp_path / "expected"), saved(tmp_path / "found")
    call("ahead_cases:distil_harmed", expected, parallel=DATA)
    call("ahead_cases:distil_harmed", found, until=4, parallel=DATA)
    assert not found.output.exists()
    call("ahead_cases:distil_harmed", found, parallel=DATA)
    for name in ("loss", "grad_norm", "validation_loss"):
        assert values(found.output, name) == values(expected.output, name), name
    assert weights(found) == weights(expected)


def test_the_teacher_follows_a_run_that_is_rolled_back(call, saved, tmp_path):
    """The fourth step is harmful, the checkpoint is of the second: neither 3 nor 4 is taken."""
    expected = saved(tmp_path / "expected", policy="skip")
    found = saved(tmp_path / "found", policy="rollback")
    call("ahead_cases:distil_harmed", expected, harm=[3, 4], parallel=DATA)
    call("ahead_cases:distil_harmed", found, harm=[4], parallel=DATA)
    assert len(values(found.output, "loss")) == 4
    assert weights(found) == weights(expected)


def weights(config: DistillConfig) -> bytes:
    return (config.output / "model.safetensors").read_bytes()


# --- who holds and gets what

#: Of `TEACHER`, whose 4 heads and 2 groups have 6 channels each: two norms a layer, the projections
#: of queries (and back), keys and values, three matrices of the feed-forward layer.
NORMS, MATRICES = 2 * 32, 2 * 24 * 32 + 2 * 12 * 32 + 3 * 36 * 32
EMBEDDING = 48 * 32  # and output weight


@pytest.mark.parametrize(
    ("name", "teacher_shares", "output_shares"),
    [
        (
            "data=2, teacher tensor=2",
            [6 * (NORMS + MATRICES // 2) + 32 + EMBEDDING // 2] * 2,
            [EMBEDDING, EMBEDDING],
        ),
        (
            "data=2, teacher pipeline=2",
            [3 * (NORMS + MATRICES) + EMBEDDING, 3 * (NORMS + MATRICES) + 32],
            [EMBEDDING, EMBEDDING],
        ),
        (
            "pipeline=2, teacher tensor=2",
            [6 * (NORMS + MATRICES // 2) + 32 + EMBEDDING // 2] * 2,
            [0, EMBEDDING],
        ),
    ],
)
def test_a_rank_holds_its_share_of_the_teacher_and_trains_nothing_of_it(
    call, settings, tmp_path, name, teacher_shares, output_shares
):
    parallel, tensor, pipeline = LAYOUTS[name]
    layout = TeacherParallelConfig(tensor=tensor, pipeline=pipeline)
    values = settings | {"parallel": parallel, "teacher_parallel": layout, "iters": 2}
    config = DistillConfig(**values, output=tmp_path / "output")
    ranks = call("ahead_cases:held", config, parallel=parallel)
    assert [rank["teacher"] for rank in ranks] == teacher_shares
    assert [rank["output weight"] for rank in ranks] == output_shares
    trained = sum(w.numel() for w in load_file(config.model / "model.safetensors").values())
    # split over pipeline stages; of data-parallel ranks' the optimizer alone
    assert sum(rank["optimizer"] for rank in ranks) == trained
    assert sum(rank["gradients"] for rank in ranks) == parallel.data * trained


@pytest.mark.parametrize(
    ("micro_batches", "size", "students", "teachers", "most"),
    [
        (4, 2, 2, 1, 16),  # all on one replica
        (4, 2, 2, 2, 8),
        (1, 8, 1, 2, 4),  # one micro-batch is cut
        (3, 2, 1, 2, 3),
        (2, 1, 8, 4, 4),  # the example: 16 ranks, student tensor=2, teacher tensor=4
        (1, 1, 1, 4, 1),  # three replicas have nothing to do
    ],
)
def test_every_row_is_dealt_once_and_evenly(call, micro_batches, size, students, teachers, most):
    pieces = call("ahead_cases:dealt", micro_batches, size, students, teachers)[0]
    rows = [(m, replica, row) for m, replica, rows in pieces for row in rows]
    everything = itertools.product(range(micro_batches), range(students), range(size))
    assert sorted(rows) == list(everything)
    shares = [sum(len(rows) for _, _, rows in pieces[k::teachers]) for k in range(teachers)]
    assert max(shares) == most


def test_replicas_that_match_get_what_they_have_read(call):
    pieces = call("ahead_cases:dealt", 3, 2, 4, 4)[0]
    assert all(replica == number % 4 for number, (_, replica, _) in enumerate(pieces))
    assert {len(rows) for _, _, rows in pieces} == {2}, "whole micro-batches"


@pytest.mark.parametrize(("having", "wanting"), [(1, 4), (4, 1), (2, 4), (4, 2), (2, 3), (3, 3)])
def test_every_rank_gets_its_rows_of_the_output_weight(call, having, wanting):
    matrix = torch.arange(24.0).view(12, 2)
    found = call("ahead_cases:routed", matrix, having, wanting)[0]
    assert len(found) == wanting
    for part, expected in zip(found, matrix.chunk(wanting), strict=True):
        assert torch.equal(part, expected)


@pytest.mark.parametrize(("tensor", "pipeline"), [(2, 1), (1, 2)])
def test_a_second_layout_is_known_within_its_block_alone(call, tensor, pipeline):
    found = call("ahead_cases:sizes_within_and_after", tensor, pipeline, parallel=DATA)
    assert found == [([1, 1, 2], [tensor, pipeline, 1], [1, 1, 2])] * 2
