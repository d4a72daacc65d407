"""A teacher read from disk is the teacher, whoever wrote it and however the text is dealt."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import plain_reference as plain
import pytest
import torch
from engine_room import VOCAB_SIZE
from safetensors.torch import load_file

from nemo_bielik.distill.cache_stage import CacheTeacherConfig
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import DataError
from nemo_bielik.files import sibling
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import OptimConfig

CACHE = "nemo_bielik.distill.cache_stage:cache_teacher"
DISTILL = "nemo_bielik.distill.stage:distill"
LENGTH, STEPS, BATCH = 32, 4, 8
TENSOR, PIPELINE, DATA = (ParallelConfig(**{x: 2}) for x in ("tensor", "pipeline", "data"))


@pytest.fixture(scope="module")
def text(tokens, held_out):
    return {
        "train_data": tokens,
        "validation_data": held_out,
        "sequence_length": LENGTH,
        "iters": STEPS,
        "global_batch_size": BATCH,
        "eval_iters": 1,
    }


@pytest.fixture(scope="module")
def write(lanes, tmp_path_factory, text, teacher):
    """Return a function that writes a cache."""

    def write(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("cache") / "cache"
        lanes.run(CACHE, settings(text, teacher, output, **changes))
        return output

    return write


def settings(text, teacher, output, **changes):
    usual = {"shard_rows": 8, "micro_batch_size": 4, "dtype": "float32", "k": VOCAB_SIZE}
    return CacheTeacherConfig(**{"teacher": teacher, "output": output} | text | usual | changes)


@pytest.fixture(scope="module")
def distilled(lanes, tmp_path_factory, text, student):
    """Return a function that distils and returns the output."""

    def run(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        usual = {
            "micro_batch_size": 2,
            "eval_interval": 2,
            "optim": OptimConfig(max_lr=1e-2, min_lr=1e-2, warmup_iters=0),
        }
        paths = {"model": student, "output": output}
        lanes.run(DISTILL, DistillConfig(**paths | text | usual | changes))
        return output

    return run


def losses(output: Path) -> list[float]:
    lines = map(json.loads, (output / "training" / "metrics.jsonl").read_text().splitlines())
    return [line.get("loss", line.get("validation_loss")) for line in lines]


@pytest.fixture(scope="module")
def whole_by_tensor(write):
    """All tokens of every distribution, written by two tensor-parallel ranks."""
    return write(parallel=TENSOR, temperatures=[1.0])


@pytest.fixture(scope="module")
def some_by_one(write):
    """30 of 48 tokens, written by one process; two ranks of a vocabulary hold 24 each."""
    return write(k=30, temperatures=[1.0, 2.0])


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": DATA, "micro_batch_size": 1},
        {"parallel": PIPELINE, "temperature": 2.0},
        {"parallel": TENSOR, "global_batch_size": 16, "iters": 2, "eval_interval": 0},
    ],
    ids=["data=2", "pipeline=2 at T = 2", "tensor=2, larger batches"],
)
def test_all_tokens_of_a_cache_are_the_live_teacher(distilled, teacher, whole_by_tensor, changes):
    """Four steps with validations: losses and the weights that they lead to."""
    cached = distilled(cache=whole_by_tensor, **changes)
    live = distilled(teacher=teacher, **changes | {"parallel": ParallelConfig()})
    assert losses(cached) == pytest.approx(losses(live), rel=2e-5)
    assert losses(live)[0] > 0.1
    weights = [load_file(output / "model.safetensors") for output in (cached, live)]
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("layout", [TENSOR, PIPELINE, DATA], ids=["tensor", "pipeline", "data"])
def test_every_layout_writes_the_same_teacher(call, write, some_by_one, rows, layout):
    other = write(k=30, temperatures=[1.0, 2.0], parallel=layout, micro_batch_size=3)
    found = [
        call("teacher_cache_cases:cached_rows", cache, rows, 2.0)[0]
        for cache in (some_by_one, other)
    ]
    counts = rows["loss_mask"] != 0
    for number, part in enumerate(zip(*found, strict=True)):
        one, two = (values[counts].double() for values in part)
        assert one.abs().max() > 1
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4, msg=f"part {number}")


@pytest.fixture(scope="module")
def rows(call, tokens, tmp_path_factory):
    """The run's rows from the fifth on backwards, five of them."""
    index = tmp_path_factory.mktemp("index")
    arguments = (tokens, STEPS * BATCH, LENGTH, 1, VOCAB_SIZE, index)
    found = call("engine_cases:packed_samples", *arguments)[0]
    return {name: values[:5].flip(0) for name, values in found.items()}


def test_what_is_kept_is_the_plain_teachers_distribution(call, some_by_one, rows, teacher):
    """k likeliest tokens and the others' sum at T = 2, from transformers in float64."""
    arguments = (some_by_one, rows, 2.0)
    ids, logits, remainder = call("teacher_cache_cases:cached_rows", *arguments)[0]
    counts = rows["loss_mask"] != 0
    with torch.no_grad():
        log_p = plain.packed_logits(plain.load(teacher), rows["tokens"]).log_softmax(-1)[counts]
    largest = log_p.sort(descending=True)
    found = logits[counts].double()
    torch.testing.assert_close(found, largest.values[:, :30] / 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_p.gather(-1, ids[counts]), 2 * found, rtol=1e-4, atol=1e-4)
    others = (largest.values[:, 30:] / 2).logsumexp(-1)
    torch.testing.assert_close(remainder[counts].double(), others, rtol=1e-4, atol=1e-4)


def test_half_precision_and_fewer_tokens_come_near(distilled, write, teacher):
    cache = write(k=40, dtype="float16")
    found, live = losses(distilled(cache=cache)), losses(distilled(teacher=teacher))
    assert found == pytest.approx(live, rel=5e-2)
    assert found[0] < live[0]  # merging classes loses information


def test_the_size_is_what_was_said(some_by_one):
    results = Manifest.load(some_by_one).results
    shards = sorted(some_by_one.glob("*.bin"))
    assert results["bytes_per_token"] == 30 * (2 + 4) + 2 * 4
    by_hand = results["positions"] * results["bytes_per_token"] + 4 * results["fragments"]
    assert results["bytes"] == by_hand == sum(path.stat().st_size for path in shards)
    assert results["positions"] < (STEPS + 1) * BATCH * LENGTH
    assert len(shards) == results["shards"] > 3


def test_a_killed_run_goes_on_with_what_is_missing(lanes, text, teacher, some_by_one, tmp_path):
    """On its own layout and on another; a process of its own is what SIGKILL ends."""
    config = settings(text, teacher, tmp_path / "cache", k=30, temperatures=[1.0, 2.0])
    (tmp_path / "config").write_bytes(pickle.dumps(config))
    code = (
        "import sys, pathlib, teacher_cache_cases as cases; "
        "cases.killed_in_shard(pathlib.Path(sys.argv[1]), 2)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path / "config")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert not config.output.exists()
    work = sibling(config.output, "work")
    kept = {path.name: path.stat().st_mtime_ns for path in (work / "cache").glob("*.bin")}
    assert sorted(kept) == ["shard-00000.bin", "shard-00001.bin"]
    shutil.copytree(work, tmp_path / "saved")
    for layout in (ParallelConfig(), DATA):
        lanes.run(CACHE, CacheTeacherConfig(**vars(config) | {"parallel": layout}))
        for path in [*some_by_one.glob("*.bin"), *some_by_one.glob("*.npy")]:
            assert (config.output / path.name).read_bytes() == path.read_bytes(), path.name
        for name, written in kept.items():
            assert (config.output / name).stat().st_mtime_ns == written
        assert not work.exists()
        shutil.rmtree(config.output)
        shutil.copytree(tmp_path / "saved", work)


def test_too_small_a_disk_is_refused_before_the_teacher_is_loaded(
    call, text, teacher, some_by_one, tmp_path
):
    config = settings(text, teacher, tmp_path / "cache", k=30, temperatures=[1.0, 2.0])
    needed = Manifest.load(some_by_one).results["bytes"]
    without_space = "teacher_cache_cases:without_space"
    message = call(without_space, config, needed - 1)[0]
    assert message.startswith("StorageError: ")
    assert "\n" not in message
    assert f"needs {needed / 1e9:.2f} GB" in message
    assert call(without_space, config, needed)[0] == "RuntimeError: it was loaded"


@pytest.mark.parametrize("changes", [{"seed": 2}, {"iters": 40}], ids=["seed", "more rows"])
def test_text_that_was_not_cached_is_told_before_the_first_step(
    lanes, text, student, whole_by_tensor, tmp_path, changes
):
    paths = {"model": student, "cache": whole_by_tensor, "output": tmp_path / "student"}
    optim = OptimConfig(warmup_iters=0)
    config = DistillConfig(**paths | text | {"optim": optim} | changes)
    with pytest.raises(DataError) as caught:
        lanes.run(DISTILL, config)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{whole_by_tensor}: holds no teacher for " in message
    rows = changes.get("iters", STEPS) * BATCH
    assert f" of {rows} sequences of this run; it was written for 32 sequences of " in message
    assert "sequence_length=32 and seed=1" in message
