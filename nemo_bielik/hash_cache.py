"""Hashes of large files, remembered from one command to the next.

Ten candidates cut from one model need its fingerprint eleven times, and hashing it means reading
all of it. As Git's index does, a hash is taken to hold while the file's size, inode and times stay
what they were. A file is remembered only if it had been left alone for some seconds before it was
read and stood unchanged until after, so a write within one tick of the file system's clock cannot
hide. One small file an entry, written atomically: commands that run side by side need no lock, and
the directory may be removed at any time. Where nothing can be remembered, files are read.
"""

import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path

from nemo_bielik.errors import StorageError
from nemo_bielik.files import atomic_file, file_sha256

#: Smaller files are read in a tenth of a second; remembering them would only fill the directory.
WORTH_REMEMBERING_BYTES = 64 * 2**20
#: Coarser than the time stamps of any file system in use.
SETTLED_SECONDS = 4.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


def remembered_sha256(path: Path, *, fresh: bool = False) -> str:
    """Return `files.file_sha256` of `path`, from memory if the file is known and untouched.

    `fresh` reads the file whatever is known of it, and remembers what it finds.
    """
    before = path.stat()
    if before.st_size < WORTH_REMEMBERING_BYTES:
        return file_sha256(path)
    entry = _entry(path, before)
    known = None if fresh else _recall(entry)
    if known:
        return known
    started = time.time()
    digest = file_sha256(path)
    settled = max(before.st_mtime, before.st_ctime) + SETTLED_SECONDS < started
    if entry and settled and _entry(path, path.stat()) == entry:
        with suppress(OSError, StorageError), atomic_file(entry) as scratch:
            scratch.write_text(digest)
    return digest


def cache_directory() -> Path | None:
    """Return where hashes are kept, None where there is no home directory."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification: a relative path is to be ignored
        try:
            base = Path.home() / ".cache"
        except RuntimeError:
            return None
    return base / "nemo-bielik" / "sha256"


def _entry(path: Path, found: os.stat_result) -> Path | None:
    """Return the cache's file for `path` in the state `found`."""
    directory = cache_directory()
    if directory is None:
        return None
    state = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    key = f"{path.resolve()}\0{state}"
    return directory / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _recall(entry: Path | None) -> str | None:
    if entry is None:
        return None
    with suppress(OSError, ValueError):
        text = entry.read_text(encoding="ascii")
        if _SHA256.fullmatch(text):
            return text
    return None
