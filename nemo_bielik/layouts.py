"""What a training run may change between two starts, and the record of what it had when.

How the model and the batch are split decides how fast a run is, not what it learns: the same
samples make up every step, and the loss is divided once by the tokens of all ranks. So these
settings are no part of the recipe by which a run is told from another.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from nemo_bielik.files import write_json
from nemo_bielik.manifest import Manifest

SPEED_SETTINGS = ("parallel", "teacher_parallel", "micro_batch_size", "recompute", "async_save")
#: What is watched, and where a run pauses, changes nothing at all and is not recorded.
_UNRECORDED = ("logging", "stop_after")
_RECORD = "layouts.json"


def without_speed(manifest: Manifest) -> Manifest:
    """Return `manifest` without the settings that a run may change."""
    free = (*SPEED_SETTINGS, *_UNRECORDED)
    kept = {name: value for name, value in manifest.config.items() if name not in free}
    return dataclasses.replace(manifest, config=kept)


def note_layout(work: Path, config: Any, step: int) -> None:
    """Record that training goes on from `step` as `config` says.

    Layouts of steps after `step` are forgotten: these steps are taken again.
    """
    settings = dataclasses.asdict(config)
    layout = {name: settings[name] for name in SPEED_SETTINGS if name in settings}
    kept = [line for line in read_layouts(work) if line["from_step"] < step]
    if not kept or kept[-1] != {"from_step": kept[-1]["from_step"], **layout}:
        kept.append({"from_step": step, **layout})
    write_json(work / _RECORD, kept)


def read_layouts(work: Path) -> list[dict[str, Any]]:
    """Return the layouts that a run's steps were taken in, each with the step it began after."""
    path = work / _RECORD
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found
