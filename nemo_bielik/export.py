"""A checkpoint of a run as a model directory, while the run goes on or after it was stopped."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.files import sibling
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import describe, is_done, work_directory


@dataclass(kw_only=True)
class ExportConfig:
    """Which checkpoint to export, and on how many ranks to hold its model meanwhile."""

    run: Path = field(metadata={"help": "output of the training run, finished or not"})
    output: Path = field(metadata={"help": "model directory to make"})
    step: int = field(default=0, metadata={"help": "step of the checkpoint; 0: the newest"})
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        if self.step < 0:
            raise ConfigError(f"step is {self.step}; it must be 0 (the newest) or more")
        self.parallel.require_whole_sequences("an export")


def export_checkpoint(config: ExportConfig) -> None:
    """Write `config.output` from a checkpoint of the run that makes `config.run`.

    The run is not disturbed: nothing of it is changed, and its files are held by a second name
    while they are read. Raises `CheckpointError` where there is no such checkpoint.
    """
    work = work_directory(config.run)
    if not (work / MANIFEST_NAME).is_file():
        hint = f"it is finished: use {config.run} itself" if config.run.exists() else "is it begun?"
        raise CheckpointError(f"{config.run}: has no unfinished work in {work.name} ({hint})")

    from nemo_bielik.megatron.checkpoints import seal_fingerprint, whole

    steps = whole(work / "checkpoints")
    step = config.step or max(steps, default=0)
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none yet; save_interval says when there is one"
        raise CheckpointError(
            f"{work}: has no whole checkpoint of step {step}; there are those of steps: {known}"
        )
    checkpoint = work / "checkpoints" / f"iter_{step:07d}"
    config = dataclasses.replace(config, step=step)
    inputs = {"checkpoint": seal_fingerprint(checkpoint)}
    manifest = describe("export-checkpoint", config, inputs)
    if is_done(config.output, manifest):
        return

    from nemo_bielik.megatron.exports import export_weights

    export_weights(
        checkpoint, Manifest.load(work), config, manifest, sibling(config.output, "work")
    )
