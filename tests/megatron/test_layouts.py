"""A run may be continued on other ranks, split another way: its losses go on as if it had not."""

import json
import shutil

import pytest

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig

DISTILL = "nemo_bielik.distill.stage:distill"
STEPS, BEGUN = 6, 4
BEGINNING = {"parallel": ParallelConfig(data=2), "micro_batch_size": 2}
LAYOUTS = {
    "tensor=2": {"parallel": ParallelConfig(tensor=2), "micro_batch_size": 2},
    "pipeline=2": {"parallel": ParallelConfig(pipeline=2), "micro_batch_size": 4},
    "context=2": {"parallel": ParallelConfig(context=2), "micro_batch_size": 8},
    "one process": {"parallel": ParallelConfig(), "micro_batch_size": 8},
}


@pytest.fixture(scope="module")
def settings(student, teacher, tokens):
    return {
        "model": student,
        "teacher": teacher,
        "train_data": tokens,
        "iters": STEPS,
        "sequence_length": 32,
        "global_batch_size": 8,
        "save_interval": 2,
        "async_save": False,
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1),
    }


def values(config: DistillConfig, name: str) -> list[float]:
    lines = (config.output / "training" / "metrics.jsonl").read_text().splitlines()
    return [line[name] for line in map(json.loads, lines) if name in line]


@pytest.fixture(scope="module")
def undisturbed(lanes, settings, tmp_path_factory):
    """One process from the beginning to the end."""
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    config = DistillConfig(**settings, **LAYOUTS["one process"], output=output)
    lanes.run(DISTILL, config)
    return config


@pytest.fixture(scope="module")
def begun(call, settings, tmp_path_factory):
    """A run on two data-parallel ranks that ended abruptly in its fifth step."""
    tmp_path = tmp_path_factory.mktemp("begun")
    config = DistillConfig(**settings, **BEGINNING, output=tmp_path / "output")
    passes = BEGUN * 2  # two micro-batches a step on each rank
    call("stopped_cases:train_until", config, passes, parallel=config.parallel)
    return config.output, shutil.copytree(work_directory(config.output), tmp_path / "kept")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_goes_on_in_another_layout(lanes, settings, begun, undisturbed, layout):
    output, kept = begun
    for path in (output, work_directory(output)):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(kept, work_directory(output))
    config = DistillConfig(**settings, **LAYOUTS[layout], output=output)
    lanes.run(DISTILL, config)
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):
        expected = values(undisturbed, name)
        assert len(expected) == STEPS
        assert values(config, name) == pytest.approx(expected, rel=tolerance), name
    took_part = Manifest.load(config.output).results["layouts"]
    assert [line["from_step"] for line in took_part] == [0, BEGUN]
    assert [line["micro_batch_size"] for line in took_part] == [
        BEGINNING["micro_batch_size"],
        config.micro_batch_size,
    ]
    assert took_part[0]["parallel"]["data"] == 2
    for name in ("tensor", "pipeline", "data", "context"):
        assert took_part[1]["parallel"][name] == getattr(config.parallel, name)


def test_what_is_finished_is_finished_in_any_layout(lanes, settings, undisturbed):
    before = (undisturbed.output / "model.safetensors").stat().st_mtime_ns
    layout = LAYOUTS["tensor=2"]
    lanes.run(DISTILL, DistillConfig(**settings, **layout, output=undisturbed.output))
    assert (undisturbed.output / "model.safetensors").stat().st_mtime_ns == before
