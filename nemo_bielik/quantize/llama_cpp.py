"""llama.cpp itself: its quantiser, its tokenizer and its arithmetic, through `cyllama`.

`cyllama` ships llama.cpp built for any x86-64 Linux, so nothing is compiled here. It wraps
``llama_model_quantize`` but for one field, the importance matrix, which `_point_at` fills in.
"""

import contextlib
import ctypes
import importlib
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from nemo_bielik.errors import CheckpointError, ConfigError, StorageError
from nemo_bielik.quantize.formats import QuantizedFormat

#: Column weights by GGUF tensor name: mean squares of a matrix's inputs, [columns].
Importance = Mapping[str, NDArray[np.float32]]
Float32 = NDArray[np.float32]
#: Called with the number of tensors done since the last call.
Progress = Callable[[int], object]

#: A line of the quantiser about one tensor: ``[ 3/ 21] NAME - [ 256, …], type = f32, … (q4_K)``.
_TENSOR = re.compile(r"\[ *\d+/ *\d+\] +(\S+) +- \[.*type = +(\w+),")
_NEW_TYPE = re.compile(r"-> .* MiB \((\w+)\)")
#: Tokens that are read and written when a file is timed.
_PROMPT_TOKENS, _WRITTEN_TOKENS = 16, 32
#: Where `llama_model_quantize_params` has its fields, and sizes that are put there to find it.
_IMATRIX_OFFSET, _BUFFER_OFFSET = 24, 56
_THREADS_MARK, _BUFFER_MARK = 0x5BD1E9, 0x7C0FFEE0DECAF


class _ImatrixData(ctypes.Structure):
    """llama.cpp's ``llama_model_imatrix_data``."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    )


def library() -> Any:
    """Return cyllama's module; raise `ConfigError` where it is not installed."""
    try:
        return importlib.import_module("cyllama.llama.llama_cpp")
    except ImportError as error:
        raise ConfigError(f"llama.cpp is not here ({error}); install nemo-bielik[gguf]") from None


@contextlib.contextmanager
def _messages(progress: Progress | None = None) -> Iterator[list[str]]:
    """Collect what llama.cpp says instead of having it printed; count the tensors it names."""
    lines: list[str] = []

    def hear(_: int, text: str) -> None:
        lines.append(text)
        if progress and _TENSOR.match(text):
            progress(1)

    library().set_log_callback(hear)
    try:
        yield lines
    finally:
        library().set_log_callback(lambda level, text: None)  # it calls even what is None


def quantize_file(
    source: Path,
    target: Path,
    wanted: QuantizedFormat,
    importance: Importance | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> None:
    """Have llama.cpp write `target` from an unquantised GGUF file; 0 threads are all cores.

    `progress` is called for every tensor. Raises `CheckpointError` with what llama.cpp said if it
    refuses.
    """
    _quantize(source, target, wanted, importance, threads, progress)


def plan_types(
    outline: Path, wanted: QuantizedFormat, importance: Importance | None = None
) -> dict[str, str]:
    """Return the type (``"Q6_K"``) that llama.cpp would give to each tensor of a file.

    `outline` may be a file whose weights are a hole: only its header is read.
    """
    nowhere = outline.with_suffix(".none")
    types = {}
    said = _quantize(outline, nowhere, wanted, importance, 0, None, dry_run=True)
    for line in "".join(said).splitlines():  # it says a line in several pieces
        if found := _TENSOR.match(line):
            new = _NEW_TYPE.search(line)
            types[found[1]] = (new[1] if new else found[2]).upper()
    return types


def _quantize(
    source: Path,
    target: Path,
    wanted: QuantizedFormat,
    importance: Importance | None,
    threads: int,
    progress: Progress | None,
    dry_run: bool = False,
) -> list[str]:
    """Run llama.cpp's quantiser and return what it said."""
    cpp = library()
    settings = cpp.LlamaModelQuantizeParams()
    kept = _point_at(settings, importance) if importance else None
    settings.ftype = wanted.file_type
    settings.nthread = threads
    settings.dry_run = dry_run
    with _messages(progress) as said:
        try:
            cpp.model_quantize(str(source), str(target), settings)
        except RuntimeError as error:
            reasons = [line.strip() for line in said if "fail" in line or "imatrix" in line]
            reason = reasons[-1] if reasons else str(error)
            if "iostream" in reason:
                raise StorageError(
                    f"{target.parent}: llama.cpp cannot write {wanted.name} ({reason}); free some "
                    "space or choose another output directory"
                ) from None
            raise CheckpointError(
                f"{source}: llama.cpp cannot make {wanted.name} ({reason})"
            ) from None
    del kept  # the arrays that llama.cpp was reading
    return said


def _point_at(settings: Any, importance: Importance) -> Any:
    """Hand an importance matrix to the quantiser; return what must live as long as it reads.

    cyllama shows the field but does not let it be set. Its object holds llama.cpp's structure,
    which two numbers give away; anything but one place with both in it raises `ConfigError`.
    """
    rows = (_ImatrixData * (len(importance) + 1))()
    arrays = {name: np.ascontiguousarray(data, np.float32) for name, data in importance.items()}
    for row, (name, data) in zip(rows, arrays.items(), strict=False):
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        row.name, row.data, row.size = name.encode(), pointer, data.size
    usual = settings.nthread, settings.max_buf_size
    settings.nthread, settings.max_buf_size = _THREADS_MARK, _BUFFER_MARK
    size = type(settings).__basicsize__
    memory = ctypes.string_at(id(settings), size)
    places = [
        at
        for at in range(0, size - _BUFFER_OFFSET - 7, 8)
        if int.from_bytes(memory[at : at + 4], "little") == _THREADS_MARK
        and int.from_bytes(memory[at + _BUFFER_OFFSET :][:8], "little") == _BUFFER_MARK
    ]
    settings.nthread, settings.max_buf_size = usual
    if len(places) != 1:
        raise ConfigError("cyllama is another release than pyproject.toml names; install that one")
    address = ctypes.c_void_p.from_address(id(settings) + places[0] + _IMATRIX_OFFSET)
    address.value = ctypes.addressof(rows)
    return rows, arrays


def run_alone(path: Path, threads: int = 0) -> dict[str, float]:
    """Return tokens/s of writing and the bytes of memory that a process of its own takes for it.

    The memory is the most that was resident after a few tokens less what was before the file was
    opened; pages of the mapped file count as far as they were read.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, path, threads).result()


def _run(path: Path, threads: int) -> dict[str, float]:
    library()
    before = _resident_bytes()
    model = LlamaModel(path, _PROMPT_TOKENS + _WRITTEN_TOKENS, threads)
    prompt = [number % model.vocab_size for number in range(_PROMPT_TOKENS)]
    _, speed = model.generate(prompt, _WRITTEN_TOKENS)
    taken = _resident_bytes() - before
    model.close()
    return {"tokens_per_second": speed, "memory_bytes": taken}


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


class LlamaModel:
    """A GGUF file in llama.cpp, its weights mapped from the file."""

    def __init__(self, path: Path, context: int, threads: int = 0) -> None:
        cpp = library()
        settings = cpp.LlamaModelParams()
        settings.n_gpu_layers = 0
        with _messages() as said:
            try:
                self._model = cpp.LlamaModel(str(path), settings, verbose=False)
            except Exception as error:
                reasons = [line.strip() for line in said if "error" in line] or [str(error)]
                raise CheckpointError(f"{path}: llama.cpp cannot load it ({reasons[-1]})") from None
            self._vocab = self._model.get_vocab()
            self.vocab_size: int = self._vocab.n_vocab
            self._batch, self._context = self._open_context(context, threads)

    def _open_context(self, context: int, threads: int) -> tuple[Any, Any]:
        cpp = library()
        settings = cpp.LlamaContextParams()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context
        settings.flash_attn_type = 0
        settings.type_k = settings.type_v = 0  # float32: what is measured are the weights
        if threads:
            settings.n_threads = settings.n_threads_batch = threads
        batch = cpp.LlamaBatch(n_tokens=context, embd=0, n_seq_max=1)
        return batch, cpp.LlamaContext(self._model, settings, verbose=False)

    def tokenize(
        self, text: str, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Return token ids; `parse_special` reads special tokens spelt out in `text` as such."""
        return list(self._vocab.tokenize(text, add_special, parse_special))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`."""
        found = b"".join(self._vocab.token_to_bytes(number, special=True) for number in ids)
        return found.decode("utf-8", errors="replace")

    def metadata(self, key: str) -> str:
        """Return a value of the file's metadata as llama.cpp reads it."""
        return str(self._model.meta_val_str(key))

    def logits(self, ids: Sequence[int]) -> Float32:
        """Return the logits after each of `ids`, [tokens, vocabulary], from an empty context."""
        self._context.kv_cache_clear()
        self._feed(ids, 0, all_logits=True)
        rows = [self._context.get_logits_ith(place) for place in range(len(ids))]
        return np.array(rows, dtype=np.float32)

    def log_probs(
        self, groups: Sequence[Sequence[list[int]]], progress: Progress | None = None
    ) -> list[list[float]]:
        """Return Σ log P(token | those before it) of each sequence, as `LanguageModel` does."""
        found = []
        for group in groups:
            found.append([self._log_prob(ids) for ids in group])
            if progress:
                progress(len(group))
        return found

    def _log_prob(self, ids: Sequence[int]) -> float:
        logits = self.logits(ids)[:-1].astype(np.float64)
        chosen = logits[np.arange(len(ids) - 1), ids[1:]]
        return float((chosen - np.logaddexp.reduce(logits, axis=1)).sum())

    def generate(self, ids: Sequence[int], count: int) -> tuple[list[int], float]:
        """Return `count` greedy tokens after `ids`, and how many a second came."""
        self._context.kv_cache_clear()
        self._feed(ids, 0, all_logits=False)
        found: list[int] = []
        started = time.perf_counter()
        for place in range(len(ids), len(ids) + count):
            token = int(np.argmax(self._context.get_logits_ith(-1)))
            found.append(token)
            self._feed([token], place, all_logits=False)
        return found, count / (time.perf_counter() - started)

    def _feed(self, ids: Sequence[int], start: int, all_logits: bool) -> None:
        self._batch.clear()
        for place, token in enumerate(ids):
            is_last = place == len(ids) - 1
            self._batch.add(token, start + place, [0], all_logits or is_last)
        self._context.decode(self._batch)

    def close(self) -> None:
        """Give back the memory."""
        self._context.close()
        self._batch.close()
        self._model.close()
