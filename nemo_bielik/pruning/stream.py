"""Write a model directory whose layout is known before its weights are.

Every shard's header, the index and ``config.json`` follow from names, shapes and dtypes, so the
bytes of the output are counted before it is started, and a shard is written from its first byte to
its last while its SHA-256 is taken: nothing is read twice, and memory holds one block a shard.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from nemo_bielik.checkpoint import INDEX_NAME, SHARD_BYTES, index_text, shard_name
from nemo_bielik.files import sync
from nemo_bielik.progress import progress
from nemo_bielik.tensor_files import FORMATS, NewTensor, Raw, header_bytes

#: Threads that write shards: enough that some read, cut and hash while others wait for the disk.
WORKERS = 8
#: So much is handed to the disk at a time.
WRITE_BACK_BYTES = 32 * 2**20

#: From a tensor of the output to its elements, in order, as raw integers in blocks of any shape.
Blocks = Callable[[NewTensor], Iterable[Raw]]


@dataclass(frozen=True)
class NewShard:
    """A safetensors file about to be written."""

    name: str
    tensors: tuple[NewTensor, ...]
    header: bytes

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.num_bytes for tensor in self.tensors)


@dataclass(frozen=True)
class Layout:
    """Every byte of a model directory but the weights: shards, and the content of small files."""

    shards: tuple[NewShard, ...]
    small: Mapping[str, bytes]

    @property
    def num_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(shard.num_bytes for shard in self.shards) + sum(map(len, self.small.values()))


def lay_out(
    tensors: Iterable[NewTensor], small: Mapping[str, bytes], shard_bytes: int = SHARD_BYTES
) -> Layout:
    """Spread `tensors`, in their order, over shards of at most `shard_bytes` (or one tensor).

    Within a shard wider elements come first, so that every tensor is aligned to its elements.
    """
    groups: list[list[NewTensor]] = []
    room = 0
    for tensor in tensors:
        if not groups or tensor.num_bytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(tensor)
        room -= tensor.num_bytes
    shards = tuple(
        _new_shard(shard_name(number, len(groups)), group) for number, group in enumerate(groups)
    )
    return Layout(shards, dict(small) | _index(shards))


def write_model(
    layout: Layout, blocks: Blocks, directory: Path | None, workers: int = WORKERS
) -> dict[str, str]:
    """Write `layout` into the existing `directory` and return the SHA-256 of every file.

    With `directory` None nothing is written, and the hashes are those of what would be. `blocks`
    is called in `workers` threads, one tensor at a time in each; with one worker the tensors come
    in the order of the layout. The first error, or an interruption, stops all of them.
    """
    verb = "write" if directory is not None else "hash"
    with (
        progress(total=layout.num_bytes, desc=verb, unit="B", unit_scale=True) as bar,
        ThreadPoolExecutor(workers) as pool,
        _stopping() as stop,
    ):
        lock = threading.Lock()

        def advance(num_bytes: int) -> None:
            with lock:
                bar.update(num_bytes)

        hashes: dict[str, str] = {}
        for name, content in layout.small.items():
            hashes[name] = hashlib.sha256(content).hexdigest()
            if directory is not None:
                (directory / name).write_bytes(content)
            advance(len(content))
        jobs: dict[str, Future[str]] = {
            shard.name: pool.submit(_write_shard, shard, blocks, directory, advance, stop)
            for shard in layout.shards
        }
        for job in wait(jobs.values(), return_when=FIRST_EXCEPTION).done:
            job.result()
        hashes |= {name: job.result() for name, job in jobs.items()}
    return hashes


@contextlib.contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that is set when the block is left: threads then end at their next block."""
    stop = threading.Event()
    try:
        yield stop
    finally:
        stop.set()


def _write_shard(
    shard: NewShard,
    blocks: Blocks,
    directory: Path | None,
    advance: Callable[[int], None],
    stop: threading.Event,
) -> str:
    digest = hashlib.sha256()
    path = None if directory is None else directory / shard.name
    with _sink(path) as write:
        for data in _shard_bytes(shard, blocks):
            if stop.is_set():
                return ""
            digest.update(data)
            write(data)
            advance(len(data))
    if path is not None:
        sync(path)  # here, so that it overlaps with the other shards' work
    return digest.hexdigest()


@contextlib.contextmanager
def _sink(path: Path | None) -> Iterator[Callable[[bytes | memoryview], None]]:
    """Yield a function that appends to the new file `path`, or does nothing without one."""
    if path is None:
        yield lambda data: None
        return
    with path.open("wb") as stream:
        sent = 0

        def write(data: bytes | memoryview) -> None:
            nonlocal sent
            stream.write(data)
            if (end := stream.tell()) - sent >= WRITE_BACK_BYTES:
                # The advice makes Linux start writing now, while the next blocks are made, and
                # keeps the output from pushing the source out of the system's cache.
                stream.flush()
                os.posix_fadvise(stream.fileno(), sent, end - sent, os.POSIX_FADV_DONTNEED)
                sent = end

        yield write


def _shard_bytes(shard: NewShard, blocks: Blocks) -> Iterator[bytes | memoryview]:
    yield shard.header
    for tensor in shard.tensors:
        written = 0
        for block in blocks(tensor):
            data = memoryview(block.reshape(-1).view("u1"))
            written += len(data)
            yield data
        assert written == tensor.num_bytes, f"{tensor.name}: {written} of {tensor.num_bytes} bytes"


def _new_shard(name: str, tensors: Sequence[NewTensor]) -> NewShard:
    ordered = sorted(tensors, key=lambda tensor: -FORMATS[tensor.dtype].raw.itemsize)
    return NewShard(name, tuple(ordered), header_bytes(ordered))


def _index(shards: Sequence[NewShard]) -> dict[str, bytes]:
    if len(shards) == 1:
        return {}
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.tensors)
    return {INDEX_NAME: index_text(weight_map, total).encode()}
