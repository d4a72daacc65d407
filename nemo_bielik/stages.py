"""What every stage does around its work: skip what is done, write whole outputs, say where from."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_bielik.errors import StorageError
from nemo_bielik.files import atomic_directory, explain_disk_errors, sibling
from nemo_bielik.manifest import MANIFEST_NAME, Manifest


def describe(
    stage: str, config: Any, inputs: Mapping[str, str], seed: int | None = None
) -> Manifest:
    """Return the manifest of a stage about to run.

    `config` is its configuration dataclass; `inputs` maps a role to the fingerprint of its content.
    """
    return Manifest(stage=stage, config=dataclasses.asdict(config), inputs=dict(inputs), seed=seed)


def is_done(output: Path, manifest: Manifest) -> bool:
    """Return whether `output` was already made by this very recipe.

    Raises `StorageError` if something else stands there: nothing is overwritten unasked.
    """
    if not output.exists():
        return False
    if not (output / MANIFEST_NAME).is_file():
        raise StorageError(
            f"{output}: already exists and was not made by this package; choose another output"
        )
    found = Manifest.load(output)
    if found.recipe() == manifest.recipe():
        return True
    differences = ", ".join(_differences(found, manifest)) or "recipe"
    raise StorageError(
        f"{output}: already made by stage {found.stage!r} with another {differences}; "
        "remove it or choose another output"
    )


@contextlib.contextmanager
def stage_output(
    output: Path, manifest: Manifest, results: dict[str, Any], started: float | None = None
) -> Iterator[Path]:
    """Yield a scratch directory; on success it appears as `output` with its manifest inside.

    What the block puts into `results` (figures a reader wants) is written into the manifest, with
    the wall time since `started` (a `time.monotonic` value; now if not given).
    """
    started = time.monotonic() if started is None else started
    with atomic_directory(output) as scratch:
        yield scratch
        seconds = round(time.monotonic() - started, 3)
        dataclasses.replace(manifest, wall_seconds=seconds, results=results).save(scratch)


def work_directory(output: Path) -> Path:
    """Return where an unfinished stage keeps its checkpoints, metrics and logs."""
    return sibling(output, "work")


def open_work(output: Path, manifest: Manifest) -> Path:
    """Return where the unfinished work of `output` lies, made and marked as this recipe's.

    Raises `StorageError` if another recipe's work, or what is no stage's, lies there.
    """
    work = work_directory(output)
    if not is_done(work, manifest):
        with explain_disk_errors(output):
            work.mkdir(parents=True, exist_ok=True)
            manifest.save(work)
    return work


def claim_work(work: Path, manifest: Manifest, ignore: Collection[str] = ()) -> None:
    """Mark unfinished `work` as this recipe's, whatever the settings named in `ignore` say.

    Raises `StorageError` if another recipe's work lies there.
    """
    settings = {name: value for name, value in manifest.config.items() if name not in ignore}
    recipe = dataclasses.replace(manifest, config=settings)
    if (work / MANIFEST_NAME).is_file():
        is_done(work, recipe)  # raises if it is another recipe's
    else:
        recipe.save(work)


def _differences(found: Manifest, wanted: Manifest) -> list[str]:
    old, new = _flat(found), _flat(wanted)
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))[:5]


def _flat(manifest: Manifest) -> dict[str, str]:
    values = {"stage": manifest.stage, "seed": str(manifest.seed)}
    values |= {f"input {name}": str(value) for name, value in manifest.inputs.items()}
    for name, value in manifest.config.items():  # as JSON: a tuple comes back from disk as a list
        values[f"setting {name}"] = json.dumps(value, sort_keys=True, default=str)
    return values
