"""Functions for the lanes: a training that ends abruptly."""

from typing import Any

from nemo_bielik.training import TrainConfig, prepare


class EndedAbruptly(Exception):
    """What ends the training."""


def train_until(config: TrainConfig, micro_batches: int) -> None:
    """Train `config` as the stage does, but break off after so many forward passes."""
    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.objectives import NextToken

    class BrokenOff(NextToken):
        passes = 0

        def __call__(self, state: Any, data_iterator: Any, model: Any) -> Any:
            self.passes += 1
            if self.passes > micro_batches:
                raise EndedAbruptly
            return super().__call__(state, data_iterator, model)

    try:
        run_training(config, BrokenOff(), prepare("train", config, {}))
    except EndedAbruptly:
        return
    raise AssertionError("it ran to its end")
