"""Where a run can be watched: TensorBoard, and Weights & Biases if asked for.

Both show the lines of ``metrics.jsonl`` and nothing else, under the names that it uses; Bridge's
own writers stay off, because a resumed run would have its steps twice in them.
"""

import dataclasses
import json
import math
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from nemo_bielik.errors import ConfigError
from nemo_bielik.training import TrainConfig

Line = dict[str, Any]


class Tracker(Protocol):
    """Takes the lines of a run's metrics, in their order."""

    def write(self, line: Line) -> None:
        """Show a step or a validation."""

    def close(self) -> None:
        """Write what is still in memory."""


def scalars(line: Line) -> dict[str, float]:
    """Return the figures of a line by name; those of token classes are ``kl/all`` and so on."""
    found = {name: value for name, value in line.items() if isinstance(value, (int, float))}
    for name, figures in line.get("classes", {}).items():
        found |= {f"{figure}/{name}": value for figure, value in figures.items()}
    return {
        name: float(value)
        for name, value in found.items()
        if name not in ("step", "skipped") and math.isfinite(value)
    }


class TensorBoard:
    """Event files, written anew from the lines so far whenever training starts or resumes.

    So a resumed run has every step once, whatever a kill left behind. Events carry the time that
    training had taken.
    """

    def __init__(self, directory: Path, lines: Sequence[Line]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        shutil.rmtree(directory, ignore_errors=True)
        self.writer: Any = SummaryWriter(str(directory))
        self.started = time.time() - (lines[-1]["seconds"] if lines else 0.0)
        for line in lines:
            self.write(line)

    def write(self, line: Line) -> None:
        """Add an event for every figure."""
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"], self.started + line["seconds"])

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


class WeightsAndBiases:
    """A run of the service that keeps its id over restarts; ``WANDB_MODE=offline`` stays local.

    The service takes a step once: of those that a resumed run repeats it keeps the first.
    """

    def __init__(self, config: TrainConfig, work: Path) -> None:
        import wandb

        record = work / "wandb_run.json"
        if not record.is_file():
            record.write_text(json.dumps({"id": uuid.uuid4().hex}), encoding="utf-8")
        try:
            self.run = wandb.init(
                project=config.logging.wandb_project,
                name=config.logging.wandb_name or config.output.name,
                id=json.loads(record.read_text(encoding="utf-8"))["id"],
                resume="allow",
                dir=str(work),
                config=json.loads(json.dumps(dataclasses.asdict(config), default=str)),
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"logging.wandb_project: Weights & Biases refused the run "
                f"({str(error).splitlines()[0]}); run `wandb login`, set WANDB_MODE=offline, or "
                "leave it empty"
            ) from None

    def write(self, line: Line) -> None:
        """Log every figure."""
        self.run.log(scalars(line), step=line["step"])

    def close(self) -> None:
        """End the run and wait for the service's own process, which writes behind our back."""
        import wandb

        self.run.finish()
        wandb.teardown()


def open_trackers(config: TrainConfig, work: Path, lines: Sequence[Line]) -> list[Tracker]:
    """Return what `config` asks for, TensorBoard always; only one rank may do so."""
    trackers: list[Tracker] = [TensorBoard(work / "tensorboard", lines)]
    if config.logging.wandb_project:
        trackers.append(WeightsAndBiases(config, work))
    return trackers
