"""What happens around training steps: metrics, a progress bar, exported weights."""

import contextlib
import json
import math
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.bridge import AutoBridge
from megatron.bridge.training.callbacks import Callback, CallbackContext

from nemo_bielik.distill.token_classes import from_log
from nemo_bielik.errors import DataError
from nemo_bielik.files import atomic_file, write_json
from nemo_bielik.megatron.cpu import on_cpu
from nemo_bielik.megatron.model import export_model
from nemo_bielik.megatron.teacher import student_of
from nemo_bielik.megatron.throughput import Throughput, in_words
from nemo_bielik.megatron.trackers import Tracker, open_trackers
from nemo_bielik.phases import tokens_after
from nemo_bielik.planner.devices import peak_flops
from nemo_bielik.progress import progress
from nemo_bielik.training import TrainConfig


class Metrics(Callback):
    """Write one JSON line a step and a validation, and show progress; a resumed run continues both.

    The last rank writes: it is on the last pipeline stage, where the loss is known. Trackers show
    the same lines.

    Args:
        config: the whole run's settings.
        shape: those of the phase that is trained now.
    """

    def __init__(
        self, path: Path, config: TrainConfig, shape: TrainConfig, flops_per_token: float
    ) -> None:
        self.path, self.config, self.shape = path, config, shape
        self.writes = dist.get_rank() == dist.get_world_size() - 1
        self.speed = Throughput(flops_per_token, _peak_of_all_devices(config))
        self.trackers: list[Tracker] = []
        self.started = time.monotonic()

    def on_train_start(self, context: CallbackContext) -> None:
        """Drop lines past the checkpoint that training resumed from."""
        step = context.state.train_state.step
        self.bar = progress(
            total=self.config.iters,
            initial=step,
            desc=self.config.output.name,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps{postfix}",
            show=self.writes,
        )
        if self.writes:
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            with atomic_file(self.path) as scratch:
                scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self.started -= kept[-1]["seconds"] if kept else 0.0
            self.trackers = open_trackers(self.config, self.path.parent, kept)

    def on_train_step_start(self, context: CallbackContext) -> None:
        """Start the step's clock."""
        self.speed.begin()

    def on_train_step_end(self, context: CallbackContext) -> None:
        """Record the step; one that was not taken has no loss."""
        if not self.writes:
            return
        assert context.loss_dict is not None
        step = context.state.train_state.step + 1
        values: dict[str, Any] = {
            "step": step,
            "tokens": tokens_after(self.config, step),
        }
        if context.skipped_iter:
            values["skipped"] = True
        else:
            loss, *others = context.loss_dict.items()
            values["loss"] = float(loss[1])  # waits for the device
            values |= {name: float(mean) for name, mean in others}
            values["grad_norm"] = context.grad_norm
            values["learning_rate"] = _learning_rate(context)
        speed = self.speed.end(self.shape.global_batch_size * self.shape.sequence_length)
        self._write(**values, **speed)
        shown = in_words(speed, self.speed.seconds_left(self.config.iters - step))
        loss = f"{values['loss']:.4f}" if "loss" in values else "skipped"
        self.bar.set_postfix_str(f"{shown}, loss {loss}", refresh=False)
        self.bar.update(step - self.bar.n)

    def on_eval_end(self, context: CallbackContext) -> None:
        """Record a validation."""
        if self.writes and context.total_loss_dict:
            means = context.total_loss_dict
            values: dict[str, Any] = {"validation_loss": float(next(iter(means.values())))}
            sequences = self.shape.eval_iters * self.shape.global_batch_size
            # context ranks report their parts of a micro-batch
            reports = sequences // self.shape.micro_batch_size * self.shape.parallel.context
            classes = from_log(means, reports)
            if classes:
                values["classes"] = classes
            else:
                others = list(means.items())[1:]
                values |= {f"validation_{name}": float(mean) for name, mean in others}
            self._write(step=context.state.train_state.step, **values)

    def on_train_end(self, context: CallbackContext) -> None:
        """Close the bar; Bridge would validate once more what the loop has just validated."""
        self.bar.close()
        step, interval = context.state.train_state.step, self.config.eval_interval
        if interval and (step < self.config.iters or step % interval == 0):
            context.state.train_state.do_valid = False

    def close(self) -> None:
        """Have the trackers write what they hold, however training ended."""
        for tracker in self.trackers:
            tracker.close()

    def _write(self, **values: Any) -> None:
        values["seconds"] = round(time.monotonic() - self.started, 3)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")
        for tracker in self.trackers:
            tracker.write(values)


class Release(Callback):
    """Lets go of the model when training is over, however it ended.

    Megatron-Core 0.16 hooks its data-parallel wrapper to gradient accumulators that the wrapper and
    the distributed optimizer's shards keep, a cycle that Python cannot see: the model, its process
    groups and their threads, which never sleep for long, would stay for the life of the process.
    """

    def __init__(self) -> None:
        self.model: list[Any] = []

    def on_train_start(self, context: CallbackContext) -> None:
        """Remember what is trained."""
        self.model = context.model

    def on_eval_start(self, context: CallbackContext) -> None:
        """Remember what is only validated."""
        self.model = context.model

    def close(self) -> None:
        """Cut the cycle: nothing is left in the wrappers."""
        for chunk in self.model:
            vars(chunk).clear()
        self.model = []


class Export(Callback):
    """Write the final weights as a Hugging Face directory."""

    def __init__(self, bridge: AutoBridge, source: Path, directory: Path) -> None:
        self.bridge, self.source, self.directory = bridge, source, directory

    def on_train_end(self, context: CallbackContext) -> None:
        """Export what training ended with."""
        self.export(context)

    def export(self, context: CallbackContext) -> None:
        """Replace the directory by the model as it is now."""
        scratch = self.directory.with_name(self.directory.name + ".partial")
        if dist.get_rank() == 0:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
        dist.barrier()
        with contextlib.ExitStack() as stack:
            model = [stack.enter_context(student_of(chunk)) for chunk in context.model]
            export_model(self.bridge, model, self.source, scratch)
        if dist.get_rank() == 0:
            shutil.rmtree(self.directory, ignore_errors=True)
            scratch.rename(self.directory)
        dist.barrier()


class BestWeights(Export):
    """Keep the weights of the lowest validation loss: early stopping without guessing when."""

    def on_eval_end(self, context: CallbackContext) -> None:
        """Export if this validation is the best so far; the record survives a restart."""
        losses = list((context.total_loss_dict or {}).values())
        loss = torch.tensor([float(losses[0]) if losses else math.inf])
        dist.broadcast(loss, src=dist.get_world_size() - 1)
        record = self.directory.with_name("best.json")
        best = json.loads(record.read_text())["validation_loss"] if record.is_file() else math.inf
        dist.barrier()
        if loss.item() < best:
            self.export(context)
            if dist.get_rank() == 0:
                step = context.state.train_state.step
                write_json(record, {"validation_loss": loss.item(), "step": step})
            dist.barrier()

    def on_train_end(self, context: CallbackContext) -> None:
        """Nothing: the best is on disk already."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a line torn by a kill ends it."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def read_summary(path: Path) -> dict[str, Any]:
    """Return what a reader wants of a finished run's metrics; raise `DataError` without a step."""
    lines = read_metrics(path)
    losses = [line["loss"] for line in lines if "loss" in line]
    if not losses:
        raise DataError(f"{path}: no step was taken; see incidents.jsonl beside it")
    validations = [line for line in lines if "validation_loss" in line]
    summary: dict[str, Any] = {
        "steps": len(losses),
        "tokens": max(line.get("tokens", 0) for line in lines),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "seconds": lines[-1]["seconds"],
    }
    for name in ("step_seconds", "tokens_per_second", "flops_per_second", "utilisation"):
        found = [line[name] for line in lines if name in line]
        if found:
            summary[name] = statistics.median(found)
    if validations:
        best = min(validations, key=lambda line: float(line["validation_loss"]))
        summary["best_validation_loss"] = best["validation_loss"]
        summary["best_step"] = best["step"]
    return summary


def _peak_of_all_devices(config: TrainConfig) -> float | None:
    """Return the FLOP/s that the run's devices could reach, None where nobody says."""
    peak: float | None = 1e12 * config.logging.peak_tflops or None
    if peak is None and not on_cpu():
        peak = peak_flops(torch.cuda.get_device_name(), config.precision)
    return peak and peak * config.parallel.processes


def _learning_rate(context: CallbackContext) -> float:
    assert context.optimizer is not None
    return float(context.optimizer.param_groups[0]["lr"])
