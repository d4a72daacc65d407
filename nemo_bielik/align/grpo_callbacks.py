"""What happens around TRL's steps: metrics, a progress bar, whole checkpoints, a stop by signal."""

import json
import math
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from nemo_bielik.files import atomic_file, sync
from nemo_bielik.progress import progress
from nemo_bielik.report.gather import read_metrics

_SEAL = "sealed"
#: TRL's names to ours, those that tell how a run goes.
_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "reward": "reward",
    "reward_std": "reward_deviation",
    "frac_reward_zero_std": "groups_without_difference",
    "kl": "kl",
    "entropy": "entropy",
    "clip_ratio/region_mean": "clipped",
    "completions/mean_length": "answer_tokens",
    "completions/clipped_ratio": "unfinished",
}


class Metrics(TrainerCallback):  # type: ignore[misc]
    """A JSON line a step, a progress bar, and a stop where the loss is no number."""

    def __init__(self, path: Path, iters: int) -> None:
        self.path, self.iters = path, iters
        self.began = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Drop lines past the checkpoint that training resumed from."""
        step = state.global_step
        self.bar = progress(
            total=self.iters,
            initial=step,
            desc="grpo",
            unit="step",
            show=state.is_world_process_zero,
        )
        if state.is_world_process_zero:
            kept = [line for line in read_metrics(self.path) if line["step"] <= step]
            with atomic_file(self.path) as scratch:
                scratch.write_text("".join(json.dumps(line) + "\n" for line in kept))
            self.began -= kept[-1]["seconds"] if kept else 0.0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any], **unused: Any
    ) -> None:
        """Write a step's line; what ends the run is no step.

        A step on answers that were drawn before has no reward of its own.
        """
        if not state.is_world_process_zero or "loss" not in logs:
            return
        found = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
        line = {"step": state.global_step, "seconds": round(time.monotonic() - self.began, 3)}
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line | finite) + "\n")
        if "reward" in found:
            self.bar.set_postfix(reward=f"{found['reward']:.3f}", refresh=False)
        self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Close the bar."""
        self.bar.close()


class Seals(TrainerCallback):  # type: ignore[misc]
    """Mark a checkpoint when all of it is on the disk: one torn by a kill has no mark."""

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Save nothing after the last step: the output follows, and no step could be resumed."""
        if state.global_step >= state.max_steps:
            control.should_save = False

    def on_save(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Seal the checkpoint that was just written."""
        if dist.is_initialized():
            dist.barrier()
        if state.is_world_process_zero:
            directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            for path in [*directory.rglob("*"), directory]:
                sync(path)
            (directory / _SEAL).touch()


def last_sealed(work: Path) -> str | None:
    """Return the newest whole checkpoint in `work`, None where there is none; torn ones go."""
    found: dict[int, Path] = {}
    for directory in work.glob("checkpoint-*"):
        if (directory / _SEAL).is_file():
            found[int(directory.name.rpartition("-")[2])] = directory
        else:
            shutil.rmtree(directory, ignore_errors=True)
    return str(found[max(found)]) if found else None


class StopOnSignal(TrainerCallback):  # type: ignore[misc]
    """SIGTERM ends the run after the step at hand, with a checkpoint."""

    def __init__(self) -> None:
        self.asked = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Listen."""
        self.previous = signal.signal(signal.SIGTERM, self._ask)

    def on_step_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Save and stop if any rank was asked to; never between updates on the same answers."""
        asked = torch.tensor(float(self.asked))
        if dist.is_initialized():
            asked = asked.to(args.device)
            dist.all_reduce(asked, dist.ReduceOp.MAX)
        if asked.item() and state.global_step % args.num_iterations == 0:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **unused: Any) -> None:
        """Let the signal do what it did before."""
        signal.signal(signal.SIGTERM, self.previous)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
