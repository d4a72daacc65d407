"""Outputs that appear whole or not at all, and the hashes that name their contents."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_bielik.errors import StorageError

#: What the system says where nothing more can be written: full, over a quota, over a limit.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: What torch's writer says then; it keeps the error's number to itself.
_FULL_BY_TORCH = re.compile("PytorchStreamWriter|unexpected pos|file write failed")


@contextlib.contextmanager
def atomic_directory(output: Path) -> Iterator[Path]:
    """Yield a scratch directory beside `output` that becomes `output` when the block succeeds.

    Raises `StorageError` if `output` already exists or the disk is full. On failure the scratch
    directory is removed, so no half-written output is ever seen; everything is on the disk before
    the name is, so not after a power cut either.
    """
    refuse_existing(output)
    scratch = sibling(output, "partial")
    shutil.rmtree(scratch, ignore_errors=True)
    with explain_disk_errors(output):
        scratch.mkdir(parents=True)
        try:
            yield scratch
            for path in [*scratch.rglob("*"), scratch]:
                sync(path)
            os.replace(scratch, output)
            sync(output.parent)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


@contextlib.contextmanager
def atomic_file(output: Path) -> Iterator[Path]:
    """Yield a scratch path that replaces `output` when the block succeeds."""
    scratch = sibling(output, "partial")
    with explain_disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            sync(scratch)
            os.replace(scratch, output)
        finally:
            scratch.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, have reached the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:
        if not path.is_dir():  # some network file systems know no such thing for directories
            raise
    finally:
        os.close(number)


def link_tree(source: Path, target: Path) -> None:
    """Give a file, or all of a directory, a second name that costs no space; copy where links fail.

    What is already in `target` stays.
    """
    if source.is_file():
        _link(source, target)
    else:
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one that knows no links
        shutil.copy2(source, target)


def write_json(output: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(output) as scratch:
        scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def sibling(path: Path, purpose: str) -> Path:
    """Return the hidden scratch path ``.NAME.PURPOSE`` beside `path`, on the same file system."""
    return path.parent / f".{path.name}.{purpose}"


def refuse_existing(output: Path) -> None:
    """Raise `StorageError` if something stands where a new output is to appear."""
    if output.exists():
        raise StorageError(
            f"{output}: already exists; remove it or choose another output directory"
        )


def require_space(directory: Path, needed_bytes: int) -> None:
    """Raise `StorageError` unless the file system of `directory` has `needed_bytes` free."""
    free = shutil.disk_usage(existing_parent(directory)).free
    if free < needed_bytes:
        raise StorageError(
            f"{directory}: needs {needed_bytes / 1e9:.2f} GB, only {free / 1e9:.2f} GB are free; "
            "free some space or choose another output directory"
        )


def existing_parent(path: Path) -> Path:
    """Return `path`, or what of it exists already."""
    return next(part for part in [path, *path.resolve().parents] if part.exists())


@contextlib.contextmanager
def explain_disk_errors(output: Path) -> Iterator[None]:
    """Turn a full, read-only or forbidden disk into one line about `output`."""
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        trouble = disk_trouble(error)
        if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES):
            trouble = os.strerror(error.errno).lower()
        if not trouble:
            raise
        raise StorageError(
            f"{output}: cannot be written ({trouble}); "
            "free some space or choose another output directory"
        ) from error


@contextlib.contextmanager
def quiet_threads_on_full_disk() -> Iterator[None]:
    """Let the main thread alone tell of a full disk: a library's writer thread would bury it."""
    usual = threading.excepthook

    def tell(arguments: threading.ExceptHookArgs) -> None:
        if not disk_trouble(arguments.exc_value):
            usual(arguments)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = usual


def disk_trouble(error: BaseException | None) -> str:
    """Return what an error says of a full disk, a quota or a limit; "" if it is about none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return os.strerror(error.errno).lower()
        if isinstance(error, RuntimeError) and _FULL_BY_TORCH.search(str(error)):
            return os.strerror(errno.ENOSPC).lower()
        error = error.__cause__ or error.__context__
    return ""


def file_system(path: Path) -> tuple[Path, int]:
    """Return where the file system of `path` is mounted, and how many bytes are free on it."""
    mount = next(part for part in [path.resolve(), *path.resolve().parents] if part.is_mount())
    return mount, shutil.disk_usage(mount).free


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """Return the SHA-256 of a JSON-serialisable value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
