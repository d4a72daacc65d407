"""What TensorBoard and Weights & Biases are given, read back from their own files."""

import importlib.util
import json

import pytest
from event_files import tensorboard_scalars, wandb_history

from nemo_bielik.errors import ConfigError
from nemo_bielik.megatron.trackers import TensorBoard, open_trackers, scalars
from nemo_bielik.training import LoggingConfig, TrainConfig

CLASSES = {"all": {"tokens": 12, "kl": 0.5}, "same top token": {"tokens": 9, "kl": 0.25}}
LINES = [
    {"step": 1, "tokens": 64, "loss": 2.0, "tokens_per_second": 10.0, "seconds": 1.0},
    {"step": 2, "tokens": 128, "skipped": True, "tokens_per_second": 11.0, "seconds": 2.0},
    {"step": 2, "validation_loss": 1.5, "classes": CLASSES, "seconds": 3.0},
]


EXPECTED = {
    "tokens": [(1, 64), (2, 128)],
    "loss": [(1, 2.0)],
    "tokens_per_second": [(1, 10.0), (2, 11.0)],
    "seconds": [(1, 1.0), (2, 2.0), (2, 3.0)],
    "validation_loss": [(2, 1.5)],
    "tokens/all": [(2, 12)],
    "kl/all": [(2, 0.5)],
    "tokens/same top token": [(2, 9)],
    "kl/same top token": [(2, 0.25)],
}


def test_every_figure_is_an_event_under_the_name_of_the_metrics(tmp_path):
    tracker = TensorBoard(tmp_path, LINES[:1])
    for line in LINES[1:]:
        tracker.write(line)
    tracker.close()
    assert tensorboard_scalars(tmp_path) == EXPECTED


def test_a_resumed_run_has_no_step_twice(tmp_path):
    """The first writer is never closed, as after a kill; it had gone beyond the checkpoint."""
    killed = TensorBoard(tmp_path, [])
    for line in [*LINES, {"step": 3, "loss": 9.0, "seconds": 4.0}]:
        killed.write(line)
    killed.writer.flush()
    resumed = TensorBoard(tmp_path, LINES[:1])
    for line in LINES[1:]:
        resumed.write(line)
    resumed.close()
    assert tensorboard_scalars(tmp_path) == EXPECTED


def test_what_is_no_number_is_left_out():
    line = {"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "seconds": 1.0}
    assert scalars(line) == {"seconds": 1.0}


@pytest.fixture
def config(tmp_path):
    return TrainConfig(
        model=tmp_path / "model",
        train_data=tmp_path / "tokens",
        output=tmp_path / "output",
        logging=LoggingConfig(wandb_project="pruning"),
    )


def test_weights_and_biases_offline(config, tmp_path, monkeypatch):
    """Two sessions of one run: each leaves a directory to sync, under the same id."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    for lines in (LINES[:1], LINES[1:]):
        board, service = open_trackers(config, tmp_path, [])
        for line in lines:
            service.write(line)
        board.close()
        service.close()
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    identity = json.loads((tmp_path / "wandb_run.json").read_text())["id"]
    assert [file.name for file in files] == [f"run-{identity}.wandb"] * 2
    assert wandb_history(files[0]) == [{"_step": 1, **scalars(LINES[0])}]
    # a validation follows its step, and the service shows both as one
    assert wandb_history(files[1]) == [{"_step": 2, **scalars(LINES[1]), **scalars(LINES[2])}]


def test_weights_and_biases_is_off_unless_asked_for(config, tmp_path):
    config.logging = LoggingConfig()
    (only,) = open_trackers(config, tmp_path, [])
    only.close()
    assert isinstance(only, TensorBoard)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    LoggingConfig().check()
    with pytest.raises(
        ConfigError, match=r"logging.wandb_project needs the package wandb"
    ) as caught:
        LoggingConfig(wandb_project="pruning").check()
    assert "\n" not in str(caught.value)
