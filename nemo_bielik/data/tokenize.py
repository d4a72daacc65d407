"""Text to tokens: documents become ``<s> text </s>``, end to end in Megatron's ``.bin/.idx``.

Worker processes tokenise blocks of documents; blocks are written in the order of the text, so the
output is the same for any number of workers, and at most a few blocks per worker are in memory.
"""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.indexed import TokenWriter, token_dtype, token_stats
from nemo_bielik.data.text import read_documents, text_bytes, text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.progress import progress
from nemo_bielik.stages import describe, is_done, stage_output

__all__ = ["TokenizeConfig", "token_stats", "tokenize"]

_BLOCK_CHARACTERS = 1_000_000
_BLOCK_DOCUMENTS = 2_000
_BLOCKS_IN_FLIGHT_PER_WORKER = 3
#: Below this a further process costs more than it saves.
BYTES_WORTH_A_WORKER = 4_000_000


@dataclass(kw_only=True)
class TokenizeConfig:
    """Turn text into ``tokens.bin`` and ``tokens.idx`` for training."""

    inputs: list[Path] = field(metadata={"help": ".jsonl or .txt files, or saved datasets"})
    tokenizer: Path = field(metadata={"help": "tokenizer or model directory"})
    output: Path = field(metadata={"help": "directory to make"})
    workers: int = field(
        default_factory=lambda: os.cpu_count() or 1,
        metadata={"help": "processes; the output is the same for any number"},
    )
    document_separator: str | None = field(
        default=None, metadata={"help": "line between two documents of a .txt, if not a blank one"}
    )

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty; give at least one text")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be at least 1")


@dataclass(frozen=True)
class Block:
    """The tokens of some consecutive documents: ids end to end [tokens] and lengths [documents]."""

    tokens: NDArray[Any]
    lengths: NDArray[np.int32]
    skipped: int
    num_bytes: int


def tokenize(config: TokenizeConfig) -> None:
    """Tokenise `config.inputs` into `config.output`.

    A document without a single token is skipped and counted. Raises `DataError` if none is left.
    """
    tokenizer = TextTokenizer.open(config.tokenizer)
    total = text_bytes(config.inputs)
    manifest = _manifest(config, tokenizer)
    if is_done(config.output, manifest):
        return
    started = time.monotonic()
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        with progress(total=total, unit="B", unit_scale=True, desc="tokenize") as bar:
            blocks = _encode(_blocks(_corpus(config, bar)), config, total)
            results["end_of_document"] = tokenizer.eos_id
            results |= _write(blocks, scratch, token_dtype(tokenizer.vocab_size))
        if not results["documents"]:
            raise DataError(f"{_names(config)}: no document holds a single token; nothing to write")
        seconds = time.monotonic() - started
        results["tokens_per_second"] = round(results["tokens"] / seconds)


def _manifest(config: TokenizeConfig, tokenizer: TextTokenizer) -> Manifest:
    """Describe the run without `workers`, which decides nothing about the output."""
    inputs = {str(path): text_fingerprint(path) for path in config.inputs}
    inputs["tokenizer"] = tokenizer.fingerprint
    manifest = describe("tokenize", config, inputs)
    settings = {name: value for name, value in manifest.config.items() if name != "workers"}
    return dataclasses.replace(manifest, config=settings)


def _write(blocks: Iterable[Block], directory: Path, dtype: "np.dtype[Any]") -> dict[str, int]:
    skipped = num_bytes = 0
    with TokenWriter(directory, dtype) as writer:
        for block in blocks:
            writer.add(block.tokens, block.lengths)
            skipped += block.skipped
            num_bytes += block.num_bytes
        documents, tokens = writer.finish()
    return {
        "documents": documents,
        "skipped_documents": skipped,
        "tokens": tokens,
        "bytes": num_bytes,
    }


def _corpus(config: TokenizeConfig, bar: Any) -> Iterator[str]:
    for path in config.inputs:
        yield from read_documents(path, config.document_separator, bar.update)


def _blocks(documents: Iterable[str]) -> Iterator[list[str]]:
    """Group documents so that a block is worth sending to another process."""
    block: list[str] = []
    characters = 0
    for text in documents:
        block.append(text)
        characters += len(text)
        if characters >= _BLOCK_CHARACTERS or len(block) >= _BLOCK_DOCUMENTS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _encode(
    blocks: Iterable[list[str]], config: TokenizeConfig, total_bytes: int
) -> Iterator[Block]:
    """Yield each block's tokens, in order."""
    workers = min(config.workers, 1 + total_bytes // BYTES_WORTH_A_WORKER)
    if workers == 1:
        tokenizer = TextTokenizer.open(config.tokenizer)
        yield from (encode_block(tokenizer, block) for block in blocks)
        return
    # "spawn": a forked child of a process that has used threads (torch, tokenizers) may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=(config.tokenizer,)
    ) as pool:
        pending: deque[Future[Block]] = deque()
        try:
            for block in blocks:
                if len(pending) >= workers * _BLOCKS_IN_FLIGHT_PER_WORKER:
                    yield pending.popleft().result()
                pending.append(pool.submit(_encode_in_worker, block))
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def encode_block(tokenizer: TextTokenizer, texts: list[str]) -> Block:
    """Return ``<s> text </s>`` for each of `texts` that has a token."""
    ids = [
        (tokenizer.bos_id, *found, tokenizer.eos_id)
        for found in tokenizer.encode_batch(texts)
        if found
    ]
    lengths = np.array([len(document) for document in ids], dtype=np.int32)
    flat = (token for document in ids for token in document)
    return Block(
        tokens=np.fromiter(flat, token_dtype(tokenizer.vocab_size), int(lengths.sum())),
        lengths=lengths,
        skipped=len(texts) - len(ids),
        num_bytes=sum(len(text.encode("utf-8")) for text in texts),
    )


_worker_tokenizer: TextTokenizer


def _start_worker(directory: Path) -> None:
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too and stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process; processes are many
    _worker_tokenizer = TextTokenizer.open(directory)


def _die_with_parent() -> None:
    """End with a parent that was killed; a waiting worker would never notice by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode_in_worker(texts: list[str]) -> Block:
    return encode_block(_worker_tokenizer, texts)


def _names(config: TokenizeConfig) -> str:
    return ", ".join(map(str, config.inputs))
