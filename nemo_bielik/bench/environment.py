"""What a speed depends on beside the model: the machine, its load and its GPUs, for the record."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from nemo_bielik.doctor import memory_bytes

_GPU_FIELDS = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def describe_machine() -> dict[str, Any]:
    """Return the machine that the client runs on, and the server too if it is local."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_bytes(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "nice": os.nice(0),
        "gpus": _gpus(),
        "variables": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
    }


def load_average() -> float:
    """Return how many processes wanted a core over the last minute."""
    return round(os.getloadavg()[0], 2)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _gpus() -> list[dict[str, str]]:
    words = ["nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader"]
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = run.stdout.strip().splitlines() if run.returncode == 0 else []
    return [
        dict(zip(_GPU_FIELDS, (cell.strip() for cell in row.split(",")), strict=False))
        for row in rows
    ]
