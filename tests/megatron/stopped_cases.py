"""Functions for the lanes: trainings that end abruptly, go on, or meet with harmful steps."""

import contextlib
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist

from nemo_bielik.training import TrainConfig, prepare, train


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


def train_heard(config: TrainConfig) -> str:
    """Train `config` and return what was said on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        train(config)
    return said.getvalue()


def train_harmed(
    config: TrainConfig, harm: Mapping[int, str], rank: int | None = None, until: int = 0
) -> dict[int, str]:
    """Train with some steps (counted from 1) harmed; break off at step `until`, if given.

    Harm is done to the gradients ("nan", "explosion") or to the reported loss alone ("spike"); on
    one rank only, if `rank` is given. Returns a digest of the weights that every step began with.
    """
    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.objectives import NextToken

    digests = {}

    class Harmed(NextToken):
        def __call__(self, state: Any, data_iterator: Any, model: Any) -> Any:
            step = state.train_state.step + 1
            if step == until:
                raise EndedAbruptly
            digests[step] = digest(model)
            output, loss = super().__call__(state, data_iterator, model)
            if step not in harm or rank not in (None, dist.get_rank()):
                return output, loss
            return output, lambda found: harmed(harm[step], *loss(found))

    with contextlib.suppress(EndedAbruptly):
        run_training(config, Harmed(), prepare("train", config, {}))
    return digests


def harmed(kind: str, total: Any, count: Any, report: dict[str, Any]) -> Any:
    if kind == "spike":
        return total, count, {"loss": report["loss"] * torch.tensor([3.0, 1.0])}
    return total * {"nan": float("nan"), "explosion": 1e6}[kind], count, report


def digest(model: Any) -> str:
    found = hashlib.sha256()
    for parameter in model.parameters():
        found.update(parameter.detach().numpy().tobytes())
    return found.hexdigest()
