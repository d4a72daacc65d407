"""Where the suites' data lie: copies of Hugging Face dataset repositories below one directory.

``DATA/OWNER/NAME`` is what ``hf download --repo-type dataset OWNER/NAME --local-dir
DATA/OWNER/NAME`` makes. Where a repository has no card that lists its files, they may
lie as ``CONFIG/SPLIT.jsonl`` (``.json``, ``.csv``, ``.parquet``) or ``CONFIG/SPLIT/*.parquet``.
Nothing is downloaded, and no code of a dataset is run.
"""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.suites.suite import Suite, Task
from nemo_bielik.files import value_sha256
from nemo_bielik.hash_cache import remembered_sha256

_READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
_SHARD = re.compile(r"-\d+-of-\d+$")


def data_folder(task: Task, data_dir: Path | None) -> Path:
    """Return where the data of `task` lie; raise `DataError` saying what to put where."""
    if data_dir is None:
        raise DataError(f"needs {task.dataset}; give --data-dir DIR with it in DIR/{task.dataset}")
    folder = data_dir / task.dataset
    if not folder.is_dir() or not any(folder.iterdir()):
        raise DataError(f"needs {task.dataset} in {folder}, where nothing is")
    if task.config and not _lists_files(folder) and not (folder / task.config).is_dir():
        raise DataError(
            f"needs {task.dataset}, configuration {task.config}: {folder} has neither a README.md "
            f"that lists its files nor a folder {task.config}"
        )
    return folder


def _lists_files(folder: Path) -> bool:
    card = folder / "README.md"
    return card.is_file() and "data_files" in card.read_text(encoding="utf-8")


def data_fingerprint(folder: Path) -> str:
    """Return a hash of the data files of a folder; cards and hidden files do not count."""
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name != "README.md"
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    return value_sha256({str(path.relative_to(folder)): remembered_sha256(path) for path in files})


def suites_data(suites: Sequence[Suite], data_dir: Path | None) -> dict[str, str]:
    """Return a hash of the data of every dataset that the suites need, "missing" where it is."""
    found = {}
    for task in (task for suite in suites for task in suite.tasks if task.needs_data):
        if task.dataset not in found:
            try:
                found[task.dataset] = data_fingerprint(data_folder(task, data_dir))
            except DataError:
                found[task.dataset] = "missing"
    return found


def dataset_settings(task: Task, folder: Path, cache: Path) -> dict[str, Any]:
    """Return the settings by which lm-eval's task reads `folder` instead of the hub.

    `cache` is where the library may keep what it converts.
    """
    options: dict[str, Any] = {"cache_dir": str(cache)}
    listed = task.config is None or _lists_files(folder)  # then the library finds them itself
    files = {} if listed else _split_files(folder / str(task.config))
    if not files:
        return {"dataset_path": str(folder.resolve()), "dataset_kwargs": options}
    reader = _READERS[Path(next(iter(files.values()))[0]).suffix]
    return {
        "dataset_path": reader,
        "dataset_name": None,
        "dataset_kwargs": {**options, "data_files": files},
    }


def _split_files(folder: Path) -> dict[str, list[str]]:
    """Return the files of each split: ``SPLIT.jsonl``, or all in a folder ``SPLIT``."""
    files: dict[str, list[str]] = {}
    for path in sorted(folder.resolve().iterdir()):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [str(file) for file in inside if file.suffix in _READERS]
        if found:
            name = path.stem if path.is_file() else path.name
            files.setdefault(_SHARD.sub("", name), []).extend(found)
    return files


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Keep Hugging Face's libraries off the network for the length of the block."""
    names = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # read when the libraries are imported
    import datasets
    import huggingface_hub.constants

    constants = huggingface_hub.constants
    modules = ((constants, "HF_HUB_OFFLINE"), (datasets.config, "HF_DATASETS_OFFLINE"))
    old = [getattr(module, name) for module, name in modules]
    try:
        for module, name in modules:
            setattr(module, name, True)
        datasets.disable_progress_bars()
        yield
    finally:
        for (module, name), value in zip(modules, old, strict=True):
            setattr(module, name, value)
        for name, text in before.items():
            os.environ.pop(name, None) if text is None else os.environ.update({name: text})
