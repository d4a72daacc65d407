"""Hugging Face safetensors directories: the one interchange format between stages.

`Checkpoint.open` validates a directory from its headers alone (no torch, no weights read), so bad
input is refused in milliseconds; `CheckpointWriter` streams tensors out shard by shard.
"""

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import value_sha256
from nemo_bielik.hash_cache import remembered_sha256
from nemo_bielik.tensor_files import StoredTensor, read_header
from nemo_bielik.tensors import check_tensors

if TYPE_CHECKING:
    import torch

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)
#: Shards are what is written and hashed in parallel, so there should be several of them; what
#: collects tensors for a shard (`CheckpointWriter`) holds no more than this.
SHARD_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A validated model directory; `tensors` maps every name to where it lies."""

    directory: Path
    arch: ModelArch
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, directory: Path) -> "Checkpoint":
        """Read and check config and headers; raise `CheckpointError` naming what is wrong."""
        directory = Path(directory)
        config = read_config(directory)
        if config.get("quantization_config"):
            raise CheckpointError(
                f"{directory}: is a quantised checkpoint, and unquantised weights are read here; "
                "give the model it was made of. What it costs stands in quantize.json beside it "
                "(bielik quantize --held-out …); to evaluate it, serve it and use --endpoint"
            )
        arch = ModelArch.from_hf_config(config, name=str(directory))
        tensors: dict[str, StoredTensor] = {}
        for shard in model_shards(directory):
            tensors.update(read_header(shard))
        check_tensors(arch, ((name, t.shape) for name, t in tensors.items()), str(directory))
        return cls(directory, arch, config, tensors)

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights on disk."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())

    def read(self, name: str) -> "torch.Tensor":
        """Read one tensor; raise `CheckpointError` if it is unreadable, NaN or infinite."""
        import torch

        stored = self.tensors[name]
        (raw,) = stored.row_blocks(stored.num_bytes)
        dtype: torch.dtype = getattr(torch, stored.format.torch_name)
        return torch.from_numpy(raw.reshape(-1).view("u1")).view(dtype).reshape(stored.shape)

    def fingerprint(self, *, fresh: bool = False) -> str:
        """Return a hash of config and weights: the identity that artifacts refer to.

        It reads every byte; shards that were hashed before and left alone since are not read again
        (`hash_cache`), unless `fresh` asks for it.
        """
        return self._hash(fresh=True) if fresh else self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return self._hash(fresh=False)  # kept, because several checks ask for it

    def _hash(self, *, fresh: bool) -> str:
        shards = sorted({tensor.shard for tensor in self.tensors.values()})
        config = {key: value for key, value in self.config.items() if key != "_name_or_path"}
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(functools.partial(remembered_sha256, fresh=fresh), shards))
        return value_sha256([config, hashes])


def read_config(directory: Path) -> dict[str, Any]:
    """Read ``config.json``; raise `CheckpointError` if the directory or the file is unusable."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such model directory")
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: holds no config.json; expected a Hugging Face model directory"
        )
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a model directory's JSON file, {} if there is no such file.

    Raises `CheckpointError` if it holds anything else.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: must hold one JSON object")
    return found


def model_shards(directory: Path) -> list[Path]:
    """Return the weight files, chosen as transformers does: the single one, else the index's."""
    index = directory / INDEX_NAME
    if (directory / SINGLE_NAME).is_file():
        return [directory / SINGLE_NAME]
    if index.is_file():
        return _indexed_shards(directory, index)
    shards = sorted(path for path in directory.glob("*.safetensors") if path.is_file())
    if not shards:
        raise CheckpointError(
            f"{directory}: holds no *.safetensors; convert other formats with "
            "transformers' save_pretrained(safe_serialization=True)"
        )
    return shards


def _indexed_shards(directory: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{index}: is not a safetensors index; copy it again") from None
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{directory}: shard {missing[0]} named by {INDEX_NAME} is missing; copy it again"
        )
    return [directory / name for name in names]


def tokenizer_files(source: Path) -> list[Path]:
    """Return whatever tokenizer and generation files `source` has."""
    return [source / name for name in TOKENIZER_FILES if (source / name).is_file()]


def copy_tokenizer(source: Path, output: Path) -> None:
    """Copy whatever tokenizer and generation files `source` has into `output`."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, output / path.name)


def shard_name(number: int, count: int) -> str:
    """Return the file name of shard `number` (from 0) of `count`, as transformers expects it."""
    return SINGLE_NAME if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def index_text(weight_map: Mapping[str, str], total_bytes: int) -> str:
    """Return the index of a sharded model; `weight_map` says in which file a tensor lies."""
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(weight_map)}
    return json.dumps(index, indent=2) + "\n"


def config_text(config: Mapping[str, Any]) -> str:
    """Return the content of ``config.json``."""
    return json.dumps(config, indent=2) + "\n"


@dataclass
class CheckpointWriter:
    """Write a model directory tensor by tensor, starting a new shard every `shard_bytes`.

    The caller gives it a scratch directory (`files.atomic_directory`) and calls `finish`.
    """

    directory: Path
    config: dict[str, Any]
    shard_bytes: int = SHARD_BYTES
    _pending: dict[str, "torch.Tensor"] = field(default_factory=dict)
    _pending_bytes: int = 0
    _shards: list[list[str]] = field(default_factory=list)
    _total_bytes: int = 0

    def add(self, name: str, tensor: "torch.Tensor") -> None:
        """Append one tensor; it is held in memory only until its shard is full."""
        num_bytes = tensor.numel() * tensor.element_size()
        if self._pending and self._pending_bytes + num_bytes > self.shard_bytes:
            self._flush()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += num_bytes
        self._total_bytes += num_bytes

    def finish(self) -> None:
        """Write the last shard, the index and ``config.json``."""
        self._flush()
        config = self.directory / "config.json"
        config.write_text(config_text(self.config))
        count = len(self._shards)
        weight_map = {}
        for number, names in enumerate(self._shards):
            final = shard_name(number, count)
            shard = (self.directory / _scratch_name(number)).rename(self.directory / final)
            shutil.copymode(config, shard)  # safetensors makes files that only their owner reads
            weight_map.update(dict.fromkeys(names, final))
        if count > 1:
            (self.directory / INDEX_NAME).write_text(index_text(weight_map, self._total_bytes))

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if not self._pending:
            return
        path = self.directory / _scratch_name(len(self._shards))
        with disk_errors(path):
            save_file(self._pending, path, metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._pending = {}
        self._pending_bytes = 0


def _scratch_name(number: int) -> str:
    return f"shard-{number:05d}.partial"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the safetensors library's own error for a failed write into the `OSError` behind it."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if not number:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
