"""Checkpoints written beside training, sealed when they are whole.

A save plans what every rank writes and forks: the child keeps the weights and moments of that
moment (on a GPU, a copy in the host's memory), writes and hashes its files, and training goes on.
Megatron-Core's own worker would be handed the tensors themselves where there is no GPU, and write
what training makes of them meanwhile. Once the children of all ranks are done, at the beginning of
a step, the seal is written. With ``async_save`` off the same happens at once.
"""

import contextlib
import functools
import importlib
import os
import pickle
import queue
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.bridge.training.utils.checkpoint_utils import get_checkpoint_name
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from nemo_bielik.errors import StorageError
from nemo_bielik.files import disk_trouble, file_system
from nemo_bielik.launch.local import die_with
from nemo_bielik.megatron.checkpoints import SEAL, fingerprint, keep_newest, whole, write_seal
from nemo_bielik.megatron.model import on_rank_zero

#: Megatron-Bridge's functions of these modules save; both took `save_checkpoint` by name.
_SAVING_MODULES = ("megatron.bridge.training.train", "megatron.bridge.training.pretrain")
#: The newest checkpoint, and one to fall back on.
_KEPT = 2
#: Training goes first where the cores are few.
_NICENESS = 5


@contextlib.contextmanager
def sealed_checkpoints(in_background: bool) -> Iterator[None]:
    """Seal every checkpoint that Megatron-Bridge saves within the block; save no step twice.

    A save that has not ended when the block fails is given up. Raises `StorageError`, on every
    rank, where there is no room for a checkpoint; those before it stay.
    """
    saves = _Saves(in_background)
    modules: list[Any] = [importlib.import_module(name) for name in _SAVING_MODULES]
    originals = [module.save_checkpoint for module in modules]
    for module, save in zip(modules, originals, strict=True):
        module.save_checkpoint = functools.partial(saves.save, save)
    try:
        yield
    finally:
        saves.give_up()
        for module, save in zip(modules, originals, strict=True):
            module.save_checkpoint = save


class _Saves(AsyncCallsQueue):
    """Bridge's queue of saves, one at a time, each written by a child of every rank."""

    def __init__(self, in_background: bool) -> None:
        super().__init__(persistent=False)
        self.in_background = in_background
        self.directory = Path()
        self.fingerprints: dict[str, list[Any]] = {}

    def save(self, save: Callable[..., None], state: Any, *args: Any, **kwargs: Any) -> None:
        """Save as Bridge does, through this queue."""
        directory = Path(get_checkpoint_name(state.cfg.checkpoint.save, state.train_state.step))
        self.maybe_finalize_async_calls(blocking=True)
        if on_rank_zero((directory / SEAL).is_file):  # Bridge saves the last step a second time
            return
        self.directory = directory
        state._async_calls_queue = self
        try:
            save(state, *args, **kwargs)
        except (OSError, RuntimeError) as error:
            trouble = disk_trouble(error)
            if not trouble:
                raise
            raise _no_room(directory, trouble, 0) from error

    def schedule_async_request(self, async_request: AsyncRequest) -> int:
        """Start to write; wait for the end unless it is in the background."""
        needed = _planned_bytes(async_request)
        on_rank_zero(lambda: _require_room(self.directory, needed))
        index = int(super().schedule_async_request(self._sealed(async_request, needed)))
        if not self.in_background:
            self.maybe_finalize_async_calls(blocking=True)
        return index

    def give_up(self) -> None:
        """End the children that still write."""
        for call in self.async_calls:
            call.async_caller.close(abort=True)
        self.async_calls.clear()

    def _sealed(self, request: AsyncRequest, needed: int) -> AsyncRequest:
        """Return `request` with our writer, and with the seal as its last act."""
        report = os.memfd_create("checkpoint")
        collect = functools.partial(self._collect, report, request, needed)
        steps = [collect, *request.finalize_fns, self._seal]
        write = request.async_fn and functools.partial(
            _write, report, os.getpid(), request.async_fn.args[0], self.in_background
        )
        return request._replace(async_fn=write, finalize_fns=steps)

    def _collect(self, report: int, request: AsyncRequest, needed: int) -> None:
        """Hand on what the child reported; raise on every rank if one of them failed."""
        with os.fdopen(report, "rb") as stream:
            stream.seek(0)
            told = stream.read()
        outcome: tuple[dict[int, Any], dict[str, list[Any]], str] = ({}, {}, "")
        if told:
            outcome = pickle.loads(told)
        elif request.async_fn:
            outcome = ({}, {}, "its writer ended early: killed, or out of memory")
        results, self.fingerprints, failure = outcome
        failures: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(failures, failure)
        if any(failures):
            on_rank_zero(functools.partial(shutil.rmtree, self.directory, ignore_errors=True))
            raise _no_room(self.directory, next(filter(None, failures)), needed)
        if request.async_fn:
            request.async_fn_args[2].put(results)

    def _seal(self) -> None:
        shares: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shares, self.fingerprints)
        found = {name: value for share in shares for name, value in share.items()}
        on_rank_zero(lambda: write_seal(self.directory, found))
        on_rank_zero(lambda: keep_newest(self.directory.parent, _KEPT))


def _write(
    report: int,
    parent: int,
    transforms: list[Any],
    in_background: bool,
    rank: int,
    buckets: list[Any],
    results: object,
) -> None:
    """Write, sync and hash this rank's files, in a child; leave in `report` what came of it."""
    # a signal to the whole group is for the parent, which waits for this process
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    die_with(parent, signal.SIGKILL)
    if in_background:
        os.nice(_NICENESS)
    outcome: tuple[dict[int, Any], dict[str, list[Any]], str]
    try:
        with ThreadPoolExecutor(len(buckets)) as pool:
            written = list(pool.map(functools.partial(_write_file, transforms), buckets))
        marks = {name: mark for _, name, mark in written}
        outcome = {number: items for number, (items, _, _) in enumerate(written)}, marks, ""
    except Exception as error:  # told by the parent, on every rank
        outcome = {}, {}, disk_trouble(error) or f"{type(error).__name__}: {error}"
    with os.fdopen(report, "wb") as stream:
        pickle.dump(outcome, stream)


def _write_file(transforms: list[Any], bucket: Any) -> tuple[list[Any], str, list[Any]]:
    results: queue.Queue[tuple[int, Any]] = queue.Queue()
    pending: queue.Queue[int] = queue.Queue()
    pending.put(0)
    FileSystemWriterAsync.write_preloaded_data(transforms, 0, bucket, results, pending, True)
    items = results.get()[1]
    if isinstance(items, Exception):
        raise items
    path = Path(bucket[0])
    return items, path.name, fingerprint(path)


def _planned_bytes(request: AsyncRequest) -> int:
    """Return the bytes of all tensors that all ranks are about to write."""
    buckets = request.async_fn_args[1] if request.async_fn else []
    mine = sum(tensor.nbytes for bucket in buckets for _, tensor in bucket[2][1])
    shares = [0] * dist.get_world_size()
    dist.all_gather_object(shares, mine)
    return sum(shares)


def _require_room(directory: Path, needed: int) -> None:
    if shutil.disk_usage(directory).free < needed:
        shutil.rmtree(directory)
        raise _no_room(directory, "no space left on device", needed)


def _no_room(directory: Path, reason: str, needed: int) -> StorageError:
    mount, free = file_system(directory.parent)
    step = int(directory.name.removeprefix("iter_"))
    last = max(whole(directory.parent), default=0)
    needs = f"it needs {needed / 1e6:,.1f} MB; " if needed else ""
    onward = f"continues from step {last}" if last else "starts again"
    return StorageError(
        f"{directory.parent}: the checkpoint of step {step} cannot be written ({reason}); {needs}"
        f"{free / 1e6:,.1f} MB are free on the file system of {mount}; free some space and run the "
        f"same command again, which {onward}"
    )
