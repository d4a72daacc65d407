"""Text to tokens: documents become ``<s> text </s>``, end to end in Megatron's ``.bin/.idx``.

Conversations and preference pairs (`chat.py`) become what the chat template makes of them, with the
loss beside it.

Worker processes tokenise blocks of documents; blocks are written in the order of the text, so the
output is the same for any number of workers, and at most a few blocks per worker are in memory.
"""

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nemo_bielik.checks import check_choices
from nemo_bielik.data.chat import ChatTokenizer, encode_lines
from nemo_bielik.data.conversations import Kind, Refused, kind_of
from nemo_bielik.data.indexed import Block, TokenWriter, token_dtype, token_stats
from nemo_bielik.data.text import read_documents, read_lines, text_bytes, text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.progress import progress
from nemo_bielik.stages import describe, is_done, stage_output

__all__ = ["TokenizeConfig", "token_stats", "tokenize"]

#: Examples whose tokens are read back.
_LOOKED_AT = 100
_BLOCK_CHARACTERS = 1_000_000
_BLOCK_DOCUMENTS = 2_000
_BLOCKS_IN_FLIGHT_PER_WORKER = 3
#: Below this a further process costs more than it saves.
BYTES_WORTH_A_WORKER = 4_000_000


@dataclass(kw_only=True)
class TokenizeConfig:
    """Turn text or conversations into ``tokens.bin`` and ``tokens.idx`` for training.

    JSON lines with "messages" are conversations, those with "prompt", "chosen" and "rejected" pairs
    of answers: the tokenizer's chat template writes them, and ``loss.bin`` says which tokens are
    the assistant's.
    """

    inputs: list[Path] = field(
        metadata={"help": ".jsonl (text, conversations, pairs), .txt, or saved datasets"}
    )
    tokenizer: Path = field(metadata={"help": "tokenizer or model directory"})
    output: Path = field(metadata={"help": "directory to make"})
    workers: int = field(
        default_factory=lambda: os.cpu_count() or 1,
        metadata={"help": "processes; the output is the same for any number"},
    )
    document_separator: str | None = field(
        default=None, metadata={"help": "line between two documents of a .txt, if not a blank one"}
    )

    malformed: Literal["stop", "skip"] = field(
        default="stop",
        metadata={"help": "a conversation or pair that cannot be used: stop, or skip and count it"},
    )
    context: int = field(
        default=0,
        metadata={
            "help": "tokens a sequence of training; a longer prompt or pair cannot be used; 0: any"
        },
    )

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ConfigError("inputs is empty; give at least one text")
        check_choices(self)
        if self.context < 0:
            raise ConfigError(f"context is {self.context}; it must be 0 (any length) or more")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; it must be at least 1")


def tokenize(config: TokenizeConfig) -> None:
    """Tokenise `config.inputs` into `config.output`.

    A document without a single token is skipped and counted. Raises `DataError` if none is left.
    """
    tokenizer = TextTokenizer.open(config.tokenizer)
    total = text_bytes(config.inputs)
    kind = _kind(config.inputs)
    manifest = _manifest(config, tokenizer, kind)
    if is_done(config.output, manifest):
        return
    started = time.monotonic()
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        with progress(total=total, unit="B", unit_scale=True, desc="tokenize") as bar:
            blocks = _encode(_blocks(_corpus(config, kind, bar)), config, kind, total)
            results["end_of_document"] = tokenizer.eos_id
            results |= _write(blocks, scratch, token_dtype(tokenizer.vocab_size), kind)
        if not results["documents"]:
            raise DataError(f"{_names(config)}: no document holds a single token; nothing to write")
        if kind != "texts":
            results |= _round_trips(config, kind)
        seconds = time.monotonic() - started
        results["tokens_per_second"] = round(results["tokens"] / seconds)


def _kind(inputs: list[Path]) -> Kind:
    """Return what `inputs` hold; raise `DataError` if they differ in that, or hold tasks."""
    first, *others = inputs
    kind = kind_of(first)
    if kind == "tasks":
        raise DataError(
            f"{first}: holds tasks, whose answers are not learned as text; give it to `bielik grpo`"
        )
    for path in others:
        if kind_of(path) != kind:
            raise DataError(
                f"{first} and {path}: one holds {kind} and the other {kind_of(path)}; tokenize "
                "them apart and train on both (train_data=[a,b])"
            )
    return kind


def _manifest(config: TokenizeConfig, tokenizer: TextTokenizer, kind: Kind) -> Manifest:
    """Describe the run without the settings that decide nothing about its output."""
    inputs = {str(path): text_fingerprint(path) for path in config.inputs}
    inputs["tokenizer"] = tokenizer.fingerprint
    idle = {"workers"}
    if kind == "texts":
        idle |= {"malformed", "context"}
    else:
        inputs["chat_template"] = ChatTokenizer.open(config.tokenizer).template_fingerprint
        idle |= set() if config.context else {"context"}
    manifest = describe("tokenize", config, inputs)
    settings = {name: value for name, value in manifest.config.items() if name not in idle}
    return dataclasses.replace(manifest, config=settings)


def _write(
    blocks: Iterable[Block], directory: Path, dtype: "np.dtype[Any]", kind: Kind
) -> dict[str, Any]:
    num_bytes = loss_tokens = 0
    skipped: dict[str, tuple[int, str]] = {}
    with TokenWriter(directory, dtype, with_loss=kind != "texts") as writer:
        for block in blocks:
            writer.add(block.tokens, block.lengths, block.loss, block.weights)
            num_bytes += block.num_bytes
            loss_tokens += 0 if block.loss is None else int(block.loss.sum())
            for reason, (count, example) in block.skipped.items():
                before, first = skipped.get(reason, (0, example))
                skipped[reason] = before + count, first
        documents, tokens = writer.finish()
    counts = {reason: count for reason, (count, _) in skipped.items()}
    results = {
        "documents": documents,
        "skipped_documents": sum(counts.values()),
        "tokens": tokens,
        "bytes": num_bytes,
    }
    if kind == "texts":
        return results
    for reason, (count, example) in skipped.items():
        print(f"skipped {count:,} {kind}: {reason}; first {example}", file=sys.stderr)
    if kind == "preference pairs":
        results["pairs"] = documents // 2
    return {**results, "loss_tokens": loss_tokens, "skipped": counts}


def _round_trips(config: TokenizeConfig, kind: Kind) -> dict[str, int]:
    """Return how many of the first examples were looked at, and how many lose no text as tokens.

    White space does not count: tokenizers put it around special tokens.
    """
    tokenizer, lost, looked_at = ChatTokenizer.open(config.tokenizer), [], 0
    lines = itertools.chain.from_iterable(map(read_lines, config.inputs))
    for where, line in itertools.islice(lines, _LOOKED_AT):
        with contextlib.suppress(Refused, RecursionError):
            text, back = tokenizer.round_trip(line, kind)
            looked_at += 1
            if "".join(text.split()) != "".join(back.split()):
                lost.append(where)
    if lost:
        print(
            f"{config.tokenizer}: of {len(lost)} of {looked_at} {kind} its tokens say something "
            f"else than was written; first {lost[0]}",
            file=sys.stderr,
        )
    return {"round_trips": looked_at - len(lost), "looked_at": looked_at}


def _corpus(config: TokenizeConfig, kind: Kind, bar: Any) -> Iterator[Any]:
    """Yield texts, or (``"FILE: line N"``, JSON line) of all else."""
    for path in config.inputs:
        if kind == "texts":
            yield from read_documents(path, config.document_separator, bar.update)
        else:
            yield from read_lines(path, bar.update)


def _blocks(documents: Iterable[Any]) -> Iterator[list[Any]]:
    """Group documents so that a block is worth sending to another process."""
    block: list[Any] = []
    characters = 0
    for document in documents:
        block.append(document)
        characters += len(document if isinstance(document, str) else document[-1])
        if characters >= _BLOCK_CHARACTERS or len(block) >= _BLOCK_DOCUMENTS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _encoder(config: TokenizeConfig, kind: Kind) -> Callable[[list[Any]], Block]:
    """Return what makes a block of tokens from documents."""
    if kind == "texts":
        return functools.partial(encode_block, TextTokenizer.open(config.tokenizer))
    return functools.partial(
        encode_lines,
        ChatTokenizer.open(config.tokenizer),
        kind=kind,
        skip=config.malformed == "skip",
        context=config.context,
    )


def _encode(
    blocks: Iterable[list[Any]], config: TokenizeConfig, kind: Kind, total_bytes: int
) -> Iterator[Block]:
    """Yield each block's tokens, in order."""
    workers = min(config.workers, 1 + total_bytes // BYTES_WORTH_A_WORKER)
    settings = (config, kind)
    if workers == 1:
        yield from map(_encoder(*settings), blocks)
        return
    # "spawn": a forked child of a process that has used threads (torch, tokenizers) may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, context, initializer=_start_worker, initargs=settings
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
        num_bytes=sum(len(text.encode("utf-8")) for text in texts),
        skipped={"no token": (len(texts) - len(ids), "")},
    )


_worker_encode: Callable[[list[Any]], Block]


def _start_worker(config: TokenizeConfig, kind: Kind) -> None:
    global _worker_encode
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too and stops its workers
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread a process; processes are many
    _worker_encode = _encoder(config, kind)


def _die_with_parent() -> None:
    """End with a parent that was killed; a waiting worker would never notice by itself."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode_in_worker(documents: list[Any]) -> Block:
    return _worker_encode(documents)


def _names(config: TokenizeConfig) -> str:
    return ", ".join(map(str, config.inputs))
