"""Functions for the lanes: trainings that end abruptly, go on, or meet with harmful steps."""

import contextlib
import gc
import hashlib
import io
import os
import resource
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.training import TrainConfig, prepare, train


class EndedAbruptly(Exception):
    """What ends the training."""


class Watched:
    """A stage's own objective, with something done about its forward passes."""

    def __init__(self, config: TrainConfig) -> None:
        from nemo_bielik.megatron.objectives import Distillation, NextToken
        from nemo_bielik.megatron.teacher import LiveTeacher

        distils = isinstance(config, DistillConfig)
        self.objective: Any = (
            Distillation(LiveTeacher(config.teacher), config.loss) if distils else NextToken()
        )
        self.config = config

    def prepare(self, provider: Any, config: TrainConfig) -> Any:
        return self.objective.prepare(provider, config)

    def flops_per_token(self, config: TrainConfig) -> float:
        return float(self.objective.flops_per_token(config))

    def __call__(self, state: Any, data_iterator: Any, model: Any) -> Any:
        return self.objective(state, data_iterator, model)

    def run(self) -> None:
        """Train as the stage does."""
        from nemo_bielik.megatron.engine import run_training

        if isinstance(self.config, DistillConfig):
            inputs = {"teacher": Checkpoint.open(self.config.teacher).fingerprint()}
            manifest = prepare("distill", self.config, inputs)
        else:
            manifest = prepare("train", self.config, {})
        run_training(self.config, self, manifest)


class BrokenOff(Watched):
    """Ends abruptly after so many forward passes."""

    passes = 0

    def __call__(self, state: Any, data_iterator: Any, model: Any) -> Any:
        self.passes -= 1
        if self.passes < 0:
            raise EndedAbruptly
        return self.objective(state, data_iterator, model)


def train_until(config: TrainConfig, micro_batches: int) -> None:
    """Train `config` as its stage does, but break off after so many forward passes."""
    training = BrokenOff(config)
    training.passes = micro_batches
    try:
        training.run()
    except EndedAbruptly:
        return
    raise AssertionError("it ran to its end")


def left_behind(config: TrainConfig, micro_batches: int | None) -> tuple[int, int]:
    """Train, or break off after so many passes; return how many models and threads are left."""
    train_until(config, micro_batches) if micro_batches else train(config)
    models = sum(isinstance(thing, GPTModel) for thing in gc.get_objects())
    gc.collect()  # what only cycles hold, an optimizer's groups, goes when Python gets to it
    return models, len(os.listdir("/proc/self/task"))


def train_limited(config: TrainConfig, file_bytes: int) -> None:
    """Train `config` where no file may be larger than so many bytes."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, usual[1]))
    try:
        Watched(config).run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


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
    digests = {}

    class Harmed(Watched):
        def __call__(self, state: Any, data_iterator: Any, model: Any) -> Any:
            step = state.train_state.step + 1
            if step == until:
                raise EndedAbruptly
            if model.training:
                digests[step] = digest(model)
            output, loss = self.objective(state, data_iterator, model)
            if not model.training or step not in harm or rank not in (None, dist.get_rank()):
                return output, loss
            return output, lambda found: harmed(harm[step], *loss(found))

    with contextlib.suppress(EndedAbruptly):
        Harmed(config).run()
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
