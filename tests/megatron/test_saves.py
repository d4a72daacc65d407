"""Checkpoints written beside training: as good as those written in its way, or a clear word."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_bielik.errors import StorageError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig, TrainConfig

TRAIN = "nemo_bielik.training:train"
STEPS = 6
DISK_BYTES = 16 << 20


@pytest.fixture(scope="module")
def settings(student, tokens):
    return {
        "model": student,
        "train_data": tokens,
        "iters": STEPS,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "save_interval": 2,
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1),
    }


def weights(config: TrainConfig) -> bytes:
    return (config.output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(lanes, settings, tmp_path_factory):
    """A run that waits for every checkpoint."""
    output = tmp_path_factory.mktemp("undisturbed") / "output"
    config = TrainConfig(**settings, async_save=False, output=output)
    lanes.run(TRAIN, config)
    return weights(config)


def checkpoints(config: TrainConfig, name: str = "complete.json") -> list[int]:
    found = (work_directory(config.output) / "checkpoints").glob(f"iter_*/{name}")
    return sorted(int(path.parent.name.removeprefix("iter_")) for path in found)


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(data=2)], ids=["1", "2"])
def test_a_checkpoint_holds_the_moment_at_which_it_was_begun(
    call, lanes, settings, undisturbed, tmp_path, parallel
):
    """Training goes on while it is written; what is loaded from it must know nothing of that."""
    config = TrainConfig(**settings, parallel=parallel, output=tmp_path / "output")
    passes = 8 // config.micro_batch_size // parallel.data
    call("saves_cases:train_past_a_save", config, 4 * passes, parallel=parallel)
    assert 2 in checkpoints(config)
    lanes.run(TRAIN, config)
    if parallel.data == 1:
        assert weights(config) == undisturbed
    else:
        expected = TrainConfig(**settings, parallel=parallel, output=tmp_path / "expected")
        lanes.run(TRAIN, expected)
        assert weights(config) == weights(expected)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_one_line_and_costs_nothing(call, lanes, settings, undisturbed, small_disk):
    config = TrainConfig(**settings, output=small_disk / "output")
    call("stopped_cases:train_until", TrainConfig(**vars(config) | {"async_save": False}), 6)
    assert checkpoints(config) == [2]
    ballast = small_disk / "ballast"
    free = int(subprocess.check_output(["stat", "-f", "-c", "%a", small_disk])) * 4096
    ballast.write_bytes(bytes(free - (64 << 10)))
    with pytest.raises(StorageError) as caught:
        lanes.run(TRAIN, config)
    said = str(caught.value)
    pattern = (
        r".*/checkpoints: the checkpoint of step 4 cannot be written \(no space left on device\); "
        r"it needs \d\.\d MB; 0\.\d MB are free on the file system of (.*); free some space and "
        r"run the same command again, which continues from step 2"
    )
    found = re.fullmatch(pattern, said)
    assert found, said
    assert found[1] == str(small_disk)
    assert checkpoints(config) == checkpoints(config, "common.pt") == [2]
    ballast.unlink()
    lanes.run(TRAIN, config)
    assert weights(config) == undisturbed


@pytest.mark.parametrize("in_background", [True, False])
def test_what_stops_a_writer_is_told_by_its_parent(
    call, lanes, settings, undisturbed, tmp_path, in_background
):
    values = settings | {"async_save": in_background}
    config = TrainConfig(**values, output=tmp_path / "output")
    call(
        "stopped_cases:train_until",
        TrainConfig(**values | {"async_save": False, "output": config.output}),
        6,
    )
    with pytest.raises(
        StorageError, match=r"step 4 cannot be written \(file too large\)"
    ) as caught:
        call("stopped_cases:train_limited", config, 64 << 10)
    assert "\n" not in str(caught.value)
    assert checkpoints(config) == [2]
    lanes.run(TRAIN, config)
    assert weights(config) == undisturbed
