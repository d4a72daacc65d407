"""Functions that run in the lanes: what Megatron-Bridge is told of a run."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from nemo_bielik.megatron import bridge_config as module
from nemo_bielik.phases import stretch_at


def watched(config: Any, work: Path, socket: str | None) -> bool:
    """Whether Bridge reports progress to a monitor, which `socket` leads to."""
    variables = {"FT_RANK_MONITOR_IPC_SOCKET": socket} if socket else {}
    with mock.patch.dict(os.environ, variables):
        return bool(_container(config, work).ft.enable_ft_package)


def profiled(config: Any, work: Path, cuda: bool) -> tuple[bool, int, int, list[int]] | None:
    """Steps, as Bridge counts them, and ranks that nsys records."""
    with mock.patch.object(module, "on_cpu", lambda: not cuda):
        found = _container(config, work).profiling
    if found is None:
        return None
    steps = (found.profile_step_start, found.profile_step_end)
    return (found.use_nsys_profiler, *steps, found.profile_ranks)


def _container(config: Any, work: Path) -> Any:
    return module.bridge_config(stretch_at(config, 0), SimpleNamespace(vocab_size=48), work)
