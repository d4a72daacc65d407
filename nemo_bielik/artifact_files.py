"""How artifacts lie on disk: versioned JSON, and arrays in safetensors with JSON in the header."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from nemo_bielik.errors import BielikError, DataError
from nemo_bielik.files import atomic_file, write_json

Float64 = NDArray[np.float64]
FORMAT_VERSION = 1


def save_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an artifact's fields with the format's version."""
    write_json(path, {"version": FORMAT_VERSION, **value})


def load_json(path: Path, kind: str) -> dict[str, Any]:
    """Read what `save_json` wrote; raise `DataError` on anything else."""
    if not path.is_file():
        raise DataError(f"{path}: no such {kind}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not a {kind} ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: is not a {kind}; it must hold one JSON object")
    return _without_version(value, path)


def save_arrays(
    path: Path, kind: str, metadata: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write one safetensors file, atomically; `kind` (``score table``) names its metadata."""
    header = json.dumps({"version": FORMAT_VERSION, **metadata})
    content = serialize(dict(arrays), metadata={_header_key(kind): header})
    with atomic_file(path) as scratch:
        scratch.write_bytes(content)


def load_arrays(
    path: Path, kind: str, command: str
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `save_arrays` wrote: (metadata, arrays).

    Raises `DataError` on anything else, naming the `command` that makes such a file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such {kind}; make one with `{command}`")
    try:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            metadata = json.loads(stored.metadata()[_header_key(kind)])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is not a {kind} ({error}); run `{command}` again") from None
    return _without_version(metadata, path), arrays


@contextlib.contextmanager
def explain_fields(kind: str, path: Path) -> Iterator[None]:
    """Turn a missing, unknown or ill-typed field into one line about the file."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a {kind} of this version ({error})") from None
    except BielikError as error:
        raise DataError(f"{path}: {error}") from None


def _header_key(kind: str) -> str:
    return kind.replace(" ", "_")


def _without_version(value: dict[str, Any], path: Path) -> dict[str, Any]:
    version = value.pop("version", None)
    if version != FORMAT_VERSION:
        raise DataError(f"{path}: format version {version!r}; this release reads {FORMAT_VERSION}")
    return value
