"""Functions for the lanes: caches whose writing is killed, or for which the disk is too small."""

import os
import pickle
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from nemo_bielik.distill.cache_stage import CacheTeacherConfig, cache_teacher


def killed_in_shard(settings: Path, number: int) -> None:
    """Write a pickled config's cache; SIGKILL ends this process halfway through a shard."""
    from nemo_bielik.megatron import teacher_pass

    write_shard, written = teacher_pass.write_shard, iter(range(number + 1))

    def torn(path: Path, records: Any, positions: Any) -> None:
        write_shard(path, records, positions)
        if next(written) == number:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    with patch.object(teacher_pass, "write_shard", torn):
        cache_teacher(pickle.loads(settings.read_bytes()))


def without_space(config: CacheTeacherConfig, free_bytes: int) -> str:
    """Write a cache on a disk with so much space; return the error, also of loading a model."""
    from nemo_bielik.megatron import inference_pass

    usage, loaded = SimpleNamespace(free=free_bytes), RuntimeError("it was loaded")
    with (
        patch("nemo_bielik.files.shutil.disk_usage", return_value=usage),
        patch.object(inference_pass, "load_for_inference", side_effect=loaded),
    ):
        try:
            cache_teacher(config)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "nothing"


def cached_rows(cache: Path, rows: dict[str, Tensor], temperature: float) -> Any:
    """Return ids, logits and remainder that the cache holds for a batch of rows."""
    from nemo_bielik.megatron.batches import Batch
    from nemo_bielik.megatron.teacher_cache import CachedTeacher

    found = CachedTeacher(cache, temperature).top_k(Batch(**rows), rows["tokens"].shape)
    assert all(not part[rows["loss_mask"] == 0].any() for part in (found.ids, found.logits))
    remainder = torch.empty(0) if found.remainder is None else found.remainder
    return found.ids, found.logits, remainder
