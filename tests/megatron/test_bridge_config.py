"""What a job's surroundings change in Megatron-Bridge's settings: a monitor, a profiler."""

from pathlib import Path

import pytest

from nemo_bielik.training import LoggingConfig, OptimConfig, TrainConfig


def settings(**changes):
    paths = {"model": Path("m"), "train_data": [Path("t")], "output": Path("o")}
    return TrainConfig(**paths, iters=20, optim=OptimConfig(warmup_iters=1), **changes)


@pytest.mark.parametrize(
    ("socket", "save_interval", "watched"),
    [("/tmp/monitor", 5, True), ("/tmp/monitor", 0, False), (None, 5, False)],
)
def test_progress_is_reported_to_a_launcher_that_waits_for_it(
    call, tmp_path, socket, save_interval, watched
):
    """Bridge keeps what it learns of timeouts beside the checkpoints, so it wants some."""
    config = settings(save_interval=save_interval)
    assert call("config_cases:watched", config, tmp_path, socket) == [watched]


def test_nsys_is_told_of_the_steps_where_there_is_cuda(call, tmp_path):
    config = settings(logging=LoggingConfig(profile_steps=[10, 12]))
    # Bridge begins after nine steps are done and ends after twelve are
    assert call("config_cases:profiled", config, tmp_path, True) == [(True, 9, 12, [0])]
    assert call("config_cases:profiled", config, tmp_path, False) == [None]
    assert call("config_cases:profiled", settings(), tmp_path, True) == [None]
