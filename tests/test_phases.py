"""Phases: stretches of steps with a shape or data of their own, one after another."""

import dataclasses
from pathlib import Path

import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.phases import Phase, stretch_at, stretches, tokens_after
from nemo_bielik.training import OptimConfig, TrainConfig


def phased(tmp_path, **changes):
    paths = {"model": tmp_path, "train_data": tmp_path, "output": tmp_path}
    values = {
        "sequence_length": 16,
        "global_batch_size": 8,
        "save_interval": 10,
        "optim": OptimConfig(warmup_iters=2),
    }
    return TrainConfig(**paths | values | changes)


def test_phases_follow_each_other(tmp_path):
    config = phased(
        tmp_path,
        train_weights=[1.0],
        phases=[
            Phase(iters=3),
            Phase(iters=5, sequence_length=32, global_batch_size=4, micro_batch_size=2),
            Phase(iters=2, train_data=[tmp_path / "a", tmp_path / "b"]),
        ],
    )
    assert config.iters == 10  # by which the learning rate goes
    # 3 · 8 · 16 and 5 · 4 · 32 and 2 · 8 · 16
    assert config.tokens == 384 + 640 + 256
    assert config.longest_sequence == 32
    first, second, third = stretches(config)
    spans = [
        (part.first_step, part.last_step, part.first_sample) for part in (first, second, third)
    ]
    assert spans == [(0, 3, 0), (3, 8, 24), (8, 10, 44)]
    assert second.config == dataclasses.replace(
        config, phases=[], sequence_length=32, global_batch_size=4, micro_batch_size=2
    )
    assert third.config.train_data == [tmp_path / "a", tmp_path / "b"]
    assert third.config.train_weights == []  # other data come with their own shares
    standing = [stretch_at(config, step) for step in (0, 2, 3, 7, 8, 10)]
    assert standing == [first, first, second, second, third, third]
    after = [tokens_after(config, step) for step in (0, 2, 3, 4, 8, 9, 10)]
    assert after == [0, 256, 384, 512, 1024, 1152, 1280]
    assert stretches(config.__class__(**vars(config))) == stretches(config)


def test_a_run_without_phases_is_one_stretch(tmp_path):
    config = phased(tmp_path, iters=7)
    (only,) = stretches(config)
    assert (only.config, only.first_step, only.last_step, only.first_sample) == (config, 0, 7, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"save_interval": 0}, "phases need a save_interval above 0"),
        ({"phases": [Phase(iters=3), Phase(iters=3, global_batch_size=0)]}, "phases[1]: global_b"),
        (
            {"phases": [Phase(iters=9, micro_batch_size=3)]},
            "phases[0]: global_batch_size is 8; it must be a multiple",
        ),
        ({"optim": OptimConfig(warmup_iters=9)}, "optim.warmup_iters is 9; it must be below iters"),
        (
            {
                "phases": [Phase(iters=3), Phase(iters=3, sequence_length=32)],
                "keep": "best",
                "eval_interval": 2,
                "validation_data": Path(),
            },
            "keep=best compares validations",
        ),
        (
            {"phases": [Phase(iters=9, train_data=[Path()], train_weights=[1.0, 2.0])]},
            "phases[0]: train_weights has 2 values for 1 directories of train_data",
        ),
    ],
)
def test_phases_that_cannot_be_are_refused(tmp_path, changes, words):
    values = {"phases": [Phase(iters=4), Phase(iters=5)]} | changes
    with pytest.raises(ConfigError) as caught:
        phased(tmp_path, **values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_phase_has_a_step(tmp_path):
    with pytest.raises(ConfigError, match=r"^iters is 0; it must be at least 1$"):
        Phase(iters=0)
