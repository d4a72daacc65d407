"""What a training leaves behind in the process that ran it: nothing."""

import pytest

from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import OptimConfig, TrainConfig


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(data=2)], ids=["1", "2"])
@pytest.mark.parametrize("passes", [None, 1], ids=["at its end", "broken off"])
def test_a_training_that_is_over_is_let_go(call, student, tokens, tmp_path, parallel, passes):
    """Its model, which holds its process groups, and their threads, which never sleep for long."""
    found = []
    for name in ("first", "second"):  # the first starts what every process starts once
        config = TrainConfig(
            model=student,
            train_data=tokens,
            iters=2,
            sequence_length=32,
            global_batch_size=8,
            micro_batch_size=4,
            optim=OptimConfig(warmup_iters=1),
            parallel=parallel,
            output=tmp_path / name,
        )
        found.append(call("stopped_cases:left_behind", config, passes, parallel=parallel))
    for (models, threads), (models_then, threads_then) in zip(*found, strict=True):
        assert models_then <= models
        assert threads_then <= threads
