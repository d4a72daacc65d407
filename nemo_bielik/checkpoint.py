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
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import file_sha256, value_sha256
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
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: its shard, safetensors dtype (``"F32"``, ``"BF16"``) and shape."""

    shard: Path
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


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
        arch = ModelArch.from_hf_config(config, name=str(directory))
        tensors: dict[str, StoredTensor] = {}
        for shard in _shards(directory):
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
        from safetensors import SafetensorError, safe_open

        path = self.tensors[name].shard
        try:
            with safe_open(path, framework="pt") as shard:
                tensor: torch.Tensor = shard.get_tensor(name)
        except SafetensorError as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); copy it again") from None
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{self.directory}: {name} holds NaN or infinite weights; the source is damaged "
                "or its training diverged"
            )
        return tensor

    def fingerprint(self) -> str:
        """Return a hash of config and weights: the identity that artifacts refer to."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        # Kept, because several checks ask for it and it reads every byte of the weights.
        shards = sorted({tensor.shard for tensor in self.tensors.values()})
        config = {key: value for key, value in self.config.items() if key != "_name_or_path"}
        return value_sha256([config, [file_sha256(shard) for shard in shards]])


def read_config(directory: Path) -> dict[str, Any]:
    """Read ``config.json``; raise `CheckpointError` if the directory or the file is unusable."""
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such model directory")
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: holds no config.json; expected a Hugging Face model directory"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: must hold one JSON object")
    return config


def read_header(shard: Path) -> dict[str, StoredTensor]:
    """Read a safetensors header and check that the file is as long as it says."""
    header, data_start = _parse_header(shard)
    try:
        tensors = {
            name: StoredTensor(
                shard,
                entry["dtype"],
                tuple(entry["shape"]),
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (KeyError, TypeError, IndexError):
        raise CheckpointError(f"{shard}: damaged safetensors header; copy it again") from None
    size = shard.stat().st_size
    if data_start + end != size:
        raise CheckpointError(
            f"{shard}: truncated: holds {size:,} bytes where its header calls for "
            f"{data_start + end:,}; copy it again"
        )
    return tensors


def _parse_header(shard: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file and the offset at which its data start."""
    size = shard.stat().st_size
    with shard.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + length > size:
            raise CheckpointError(f"{shard}: truncated or not a safetensors file; copy it again")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise CheckpointError(f"{shard}: damaged safetensors header; copy it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{shard}: damaged safetensors header; copy it again")
    header.pop("__metadata__", None)
    return header, 8 + length


def _shards(directory: Path) -> list[Path]:
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


def copy_tokenizer(source: Path, output: Path) -> None:
    """Copy whatever tokenizer and generation files `source` has into `output`."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, output / name)


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
        config.write_text(json.dumps(self.config, indent=2) + "\n")
        count = len(self._shards)
        weight_map = {}
        for number, names in enumerate(self._shards):
            final = (
                SINGLE_NAME if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"
            )
            shard = (self.directory / _scratch_name(number)).rename(self.directory / final)
            shutil.copymode(config, shard)  # safetensors makes files that only their owner reads
            weight_map.update(dict.fromkeys(names, final))
        if count > 1:
            index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
            (self.directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if not self._pending:
            return
        path = self.directory / _scratch_name(len(self._shards))
        with _disk_errors(path):
            save_file(self._pending, path, metadata={"format": "pt"})
        self._shards.append(list(self._pending))
        self._pending = {}
        self._pending_bytes = 0


def _scratch_name(number: int) -> str:
    return f"shard-{number:05d}.partial"


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
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
