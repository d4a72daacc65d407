"""Functions for the lanes: trainings that outrun their checkpoints."""

import importlib
import time
from typing import Any

from stopped_cases import BrokenOff, EndedAbruptly

from nemo_bielik.training import TrainConfig


def train_past_a_save(config: TrainConfig, micro_batches: int) -> None:
    """Train `config` with writers that wait a second first; break off after so many passes.

    The steps in between change the weights long before the writers begin to write them. All but
    the last steps' checkpoints are whole by then, because a save waits for the one before.
    """
    saves: Any = importlib.import_module("nemo_bielik.megatron.saves")
    write = saves._write_file

    def late(*arguments: Any) -> Any:
        time.sleep(1.0)
        return write(*arguments)

    saves._write_file = late
    training = BrokenOff(config)
    training.passes = micro_batches
    try:
        training.run()
    except EndedAbruptly:
        return
    finally:
        saves._write_file = write
    raise AssertionError("it ran to its end")
