"""Steps that would do harm: found before the optimizer moves a weight, recorded, and not taken."""

import functools
import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge.training.callbacks import Callback, CallbackContext
from megatron.bridge.training.checkpointing import maybe_finalize_async_save
from megatron.bridge.training.state import GlobalState
from megatron.core import parallel_state
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from nemo_bielik.errors import DataError
from nemo_bielik.files import atomic_file
from nemo_bielik.megatron.callbacks import read_metrics
from nemo_bielik.megatron.model import on_rank_zero
from nemo_bielik.megatron.objectives import Objective, Step
from nemo_bielik.training import StabilityConfig, TrainConfig

#: Standard deviations in a median absolute deviation, where values are normally distributed.
_DEVIATION = 1.4826


class RollBack(Exception):
    """Training goes back to its last checkpoint; what to skip from there is on record."""


def complaint(
    loss: float, grad_norm: float, recent: Sequence[float], limits: StabilityConfig
) -> str:
    """Return what speaks against taking a step, "" if nothing does.

    Args:
        recent: losses of the steps before; a spike is looked for once there are `limits.window`.
    """
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not math.isfinite(value):
            return f"the {name} is {value}"
    if limits.grad_norm_limit and grad_norm > limits.grad_norm_limit:
        return f"the gradient norm is {grad_norm:.4g}, above {limits.grad_norm_limit:g}"
    if limits.loss_spike and len(recent) >= limits.window:
        middle = statistics.median(recent)
        deviation = _DEVIATION * statistics.median(abs(value - middle) for value in recent)
        if loss > middle + limits.loss_spike * deviation:
            return f"the loss is {loss:.4g} where it was {middle:.4g} ± {deviation:.2g}"
    return ""


class StepGuard(Callback):
    """Judge every step once its gradients are there; harmful ones follow `config.stability.policy`.

    Every rank judges by the same numbers, so all take the step or none does. A step that is not
    taken leaves weights and Adam's moments as they were; its samples count as seen and the
    learning rate's schedule goes on. Incidents are lines of a JSON file that survives a restart.
    """

    def __init__(self, config: TrainConfig, work: Path) -> None:
        self.config, self.limits = config, config.stability
        self.incidents, self.metrics = work / "incidents.jsonl", work / "metrics.jsonl"
        self.recent: deque[float] = deque(maxlen=self.limits.window)
        self.reports: list[Tensor] = []
        self.count = self.resumed_at = 0

    def watch(self, objective: Objective) -> Callable[..., Step]:
        """Return `objective` with its losses noted in training."""

        def forward_step(
            state: GlobalState, data_iterator: Iterator[Any], model: MegatronModule
        ) -> Step:
            output, loss = objective(state, data_iterator, model)
            return output, functools.partial(self._note, loss) if model.training else loss

        return forward_step

    def _note(self, loss: Callable[[Tensor], Any], output: Tensor) -> Any:
        found = loss(output)
        report = next(iter(found[2].values())).detach().view(-1)
        # Bridge takes a report for (sum, count), or for a value that is averaged
        self.reports.append(report if len(report) == 2 else torch.cat([report, report.new_ones(1)]))
        return found

    def on_train_start(self, context: CallbackContext) -> None:
        """Recall what happened up to the checkpoint that training resumed from; begin to judge."""
        self.resumed_at = context.state.train_state.step
        self.count, recent = on_rank_zero(lambda: self._recall(self.resumed_at))
        self.recent.extend(recent)
        optimizer: Any = context.optimizer
        prepare, measure = optimizer.prepare_grads, optimizer.get_grad_norm

        def judged() -> bool:
            if prepare():
                return True
            grad_norm = float(measure())
            optimizer.get_grad_norm = lambda: grad_norm  # the optimizer would measure it once more
            return self._refuses(context.state, grad_norm)

        optimizer.prepare_grads = judged  # True ends the optimizer's step before it changes a thing

    def on_train_step_start(self, context: CallbackContext) -> None:
        """Let the learning rate's schedule follow past steps that were not taken, and new phases.

        It counts in samples, as if every step had read the batch of this phase.
        """
        self.reports.clear()
        scheduler: Any = context.scheduler
        wanted = context.state.train_state.step * self.config.global_batch_size
        behind = wanted - scheduler.num_steps
        if behind:
            scheduler.step(increment=behind)

    def _recall(self, step: int) -> tuple[int, list[float]]:
        """Drop incidents that will happen again; return how many are left and the recent losses.

        Those that led to a roll-back stay: they say which batches are skipped.
        """
        kept = [
            line
            for line in read_metrics(self.incidents)
            if line["step"] <= step or "back_to" in line
        ]
        if self.incidents.is_file():
            with atomic_file(self.incidents) as scratch:
                scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
        lines = [line for line in read_metrics(self.metrics) if line["step"] <= step]
        losses = [line["loss"] for line in lines if "loss" in line]
        return len(kept), losses[-self.limits.window :]

    def _refuses(self, state: GlobalState, grad_norm: float) -> bool:
        loss = self._agreed_loss()
        reason = complaint(loss, grad_norm, self.recent, self.limits)
        if not reason:
            self.recent.append(loss)
            return False
        train_state = state.train_state
        step, first = train_state.step + 1, train_state.consumed_train_samples
        incident: dict[str, Any] = {
            "step": step,
            "reason": reason,
            "policy": self.limits.policy,
            "loss": loss,
            "grad_norm": grad_norm,
            "samples": [first, first + self.config.global_batch_size],
        }
        # the checkpoint to go back to may still be on its way to the disk
        maybe_finalize_async_save(state, state.cfg.checkpoint, blocking=True)
        self._act(incident, state.cfg.checkpoint.save_interval)
        return True

    def _agreed_loss(self) -> float:
        """Return the loss that Bridge will report for this step, on every rank."""
        loss = torch.zeros(1).cuda()
        if parallel_state.is_pipeline_last_stage():
            total = torch.vstack(self.reports).sum(dim=0)
            dist.all_reduce(total, group=parallel_state.get_data_parallel_group(True))
            loss = (total[0] / total[1]).view(1).to(loss)
        dist.broadcast(loss, src=dist.get_world_size() - 1)
        return float(loss)

    def _act(self, incident: dict[str, Any], save_interval: int | None) -> None:
        """Record an incident and end what the policy ends; returning means to skip the step."""
        self.count += 1
        rolls_back = self.limits.policy == "rollback" and self.count <= self.limits.max_incidents
        if rolls_back and save_interval:
            saved = (incident["step"] - 1) // save_interval * save_interval
            incident["back_to"] = max(saved, self.resumed_at)
        on_rank_zero(lambda: self._record(incident))
        found = f"step {incident['step']}: {incident['reason']}"
        where = f"lower optim.max_lr or check the data (its samples are in {self.incidents})"
        if self.limits.policy == "stop":
            raise DataError(f"training diverged at {found}; {where}, or set stability.policy")
        if self.count > self.limits.max_incidents:
            raise DataError(
                f"training diverged: {self.count} incidents, the last at {found}; {where}, or "
                "raise stability.max_incidents"
            )
        if rolls_back:
            raise RollBack(found)

    def _record(self, incident: dict[str, Any]) -> None:
        with self.incidents.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(incident) + "\n")


def steps_to_skip(incidents: Path) -> list[int]:
    """Return the steps, counted from 0, between a checkpoint and a harmful step after it."""
    lines = [line for line in read_metrics(incidents) if "back_to" in line]
    return sorted({step for line in lines for step in range(line["back_to"], line["step"])})
