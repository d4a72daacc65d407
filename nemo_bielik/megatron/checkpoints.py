"""Checkpoints that are proven whole before training goes on from them.

Megatron's checkpoint of a step is a directory of files, and nothing in it says whether they are all
there and as they were written. Here the last act of a save (`saves.py`) is a seal: size and SHA-256
of every file, written atomically once the files have reached the disk. A run starts from the newest
checkpoint that answers to its seal.
"""

import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.bridge.training.utils.checkpoint_utils import (
    get_checkpoint_tracker_filename,
    get_checkpoint_train_state_filename,
    read_run_config,
    read_train_state,
)

from nemo_bielik.files import atomic_file, file_sha256, sync, write_json
from nemo_bielik.megatron.model import on_rank_zero

SEAL = "complete.json"


def fingerprint(path: Path) -> list[Any]:
    """Return [bytes, SHA-256] of a file; its content is on the disk afterwards."""
    sync(path)
    return [path.stat().st_size, file_sha256(path)]


def write_seal(directory: Path, found: dict[str, list[Any]]) -> None:
    """Record what a checkpoint consists of, as the proof that it is whole; rank 0 calls.

    Args:
        found: fingerprints of the files whose writers took them; the others' are taken here.
    """
    names = _files(directory)
    marks = {
        name: found[name] if name in found else fingerprint(directory / name) for name in names
    }
    for path in [*(path for path in directory.rglob("*") if path.is_dir()), directory]:
        sync(path)
    write_json(directory / SEAL, marks)
    sync(directory)


def whole(directory: Path) -> list[int]:
    """Return the steps whose checkpoints in `directory` bear a seal, in order."""
    return sorted(step for step, path in _begun(directory) if (path / SEAL).is_file())


def seal_fingerprint(checkpoint: Path) -> str:
    """Return the identity of a whole checkpoint: the hash of its seal."""
    return file_sha256(checkpoint / SEAL)


def keep_newest(directory: Path, count: int) -> None:
    """Remove all sealed checkpoints of `directory` but the newest; rank 0 calls.

    The seal goes first, so that half a checkpoint is never taken for a damaged one.
    """
    kept = whole(directory)[-count:]
    for step, path in _begun(directory):
        if step < min(kept):
            (path / SEAL).unlink(missing_ok=True)
            shutil.rmtree(path)


def last_complete(directory: Path) -> int:
    """Return the step of the newest whole checkpoint in `directory`, 0 if there is none.

    Every rank calls; each checks its share of the files. Megatron-Bridge will load that checkpoint
    and no other: newer ones are put aside, and rank 0 says so in one line on stderr.
    """
    complaints = []
    step, path = on_rank_zero(lambda: _newest(directory))
    while path is not None:
        reason = damage(path)
        if not reason:
            break
        complaints.append(f"checkpoint of step {step} is damaged ({reason})")
        on_rank_zero(functools.partial(_put_aside, path))
        step, path = on_rank_zero(lambda: _newest(directory))
    on_rank_zero(lambda: _point_at(directory, step, path))
    for read in (read_train_state, read_run_config):
        read.cache_clear()  # it remembers by path what an earlier run in this process has changed
    if complaints and dist.get_rank() == 0:
        onward = f"continuing from step {step}" if step else "starting from the beginning"
        print("; ".join([*complaints, onward]), file=sys.stderr, flush=True)
    return int(step)


def damage(directory: Path) -> str:
    """Return what is wrong with a checkpoint, "" if it is as it was written; every rank calls."""
    expected, reason = on_rank_zero(lambda: _read_seal(directory))
    if reason:
        return str(reason)
    found = _fingerprints(directory, sorted(expected))
    for name, fingerprint in expected.items():
        if not found[name]:
            return f"{name} cannot be read"
        if found[name][0] != fingerprint[0]:
            return f"{name} has {found[name][0]:,} of {fingerprint[0]:,} bytes"
        if found[name] != fingerprint:
            return f"{name} is not what was written"
    return ""


def _read_seal(directory: Path) -> tuple[dict[str, list[Any]], str]:
    if not (directory / SEAL).is_file():
        return {}, "its writing was cut short"
    try:
        seal: dict[str, Any] = json.loads((directory / SEAL).read_text(encoding="utf-8"))
        return {name: [int(size), str(digest)] for name, (size, digest) in seal.items()}, ""
    except (OSError, ValueError, TypeError, AttributeError):
        return {}, f"{SEAL} cannot be read"


def _fingerprints(directory: Path, names: list[str]) -> dict[str, list[Any]]:
    """Return the fingerprint of every file, [] of one that cannot be read; each rank takes some."""
    share: dict[str, list[Any]] = {}
    for name in names[dist.get_rank() :: dist.get_world_size()]:
        try:
            share[name] = fingerprint(directory / name)
        except OSError:
            share[name] = []
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, share)
    return {name: mark for share in shares for name, mark in share.items()}


def _files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def _newest(directory: Path) -> tuple[int, Path | None]:
    """Return the last checkpoint that Megatron-Bridge began to write, (0, None) without any."""
    return max(_begun(directory), default=(0, None))


def _begun(directory: Path) -> list[tuple[int, Path]]:
    return [(int(path.name.removeprefix("iter_")), path) for path in directory.glob("iter_*")]


def _put_aside(path: Path) -> None:
    """Remove a checkpoint from sight: half of one is of no use, a damaged one may be examined."""
    if not (path / SEAL).is_file():
        shutil.rmtree(path)
        return
    # by a name that Megatron-Bridge does not count among its checkpoints
    aside = path.with_name(path.name.replace("iter_", "damaged_"))
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def _point_at(directory: Path, step: int, path: Path | None) -> None:
    """Make the two files by which Megatron-Bridge knows the last checkpoint name this one."""
    state = Path(get_checkpoint_train_state_filename(str(directory), prefix="latest"))
    number = Path(get_checkpoint_tracker_filename(str(directory)))
    if path is None:
        state.unlink(missing_ok=True)
        number.unlink(missing_ok=True)
        return
    with atomic_file(state) as scratch:
        shutil.copyfile(get_checkpoint_train_state_filename(str(path)), scratch)
    with atomic_file(number) as scratch:
        scratch.write_text(str(step))
