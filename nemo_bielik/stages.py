"""What every stage does around its work: skip what is done, write whole outputs, say where from."""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from nemo_bielik.errors import StorageError
from nemo_bielik.files import atomic_directory, explain_disk_errors, sibling
from nemo_bielik.manifest import MANIFEST_NAME, Manifest

#: How long a process that is about to end may take for it, and how often that is looked at.
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.2


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


@contextlib.contextmanager
def hold_work(output: Path, manifest: Manifest) -> Iterator[Path | None]:
    """Yield the unfinished work of `output`, held by this process alone; None if it is done.

    A training whose parent was killed still saves before it ends: it is waited for. The kernel's
    lock on the directory ends with its process and all that this has forked; a file system without
    locks gives none. Raises `StorageError` as `open_work` does, or if the other goes on working.
    """
    while not is_done(output, manifest):
        work = open_work(output, manifest)
        directory = os.open(work, os.O_RDONLY)
        try:
            _lock(directory, output)
            if work.exists() and os.path.samestat(os.fstat(directory), work.stat()):
                yield work
                return
        finally:  # also for what was forked and still has it open
            with contextlib.suppress(OSError):
                fcntl.flock(directory, fcntl.LOCK_UN)
            os.close(directory)
    yield None


def _lock(directory: int, output: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{output}: another process works on it; wait for its end or stop it, and run "
                    "the same command again"
                ) from None
        except OSError:  # no locks here
            return
        if not told:
            print(
                f"{output}: waiting for the process that works on it", file=sys.stderr, flush=True
            )
        told = True
        time.sleep(_LOOK_SECONDS)


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


@contextlib.contextmanager
def end_on_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that programs of ours are stopped.

    For stages whose work is saved as it comes: they end with success, and go on later.
    """

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
