"""One process that knows NeMo 2, for all tests of this folder: importing NeMo takes a minute."""

import functools
import importlib
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from nemo_bielik.launch.local import die_with


@functools.cache
def nemo_process() -> ProcessPoolExecutor:
    """Start the process; it imports NeMo while tests without it run."""
    pool = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)
    )
    pool.submit(run_case, "ready")
    return pool


def run_case(name: str, *arguments: Any) -> Any:
    """In that process: run a function of `nemo2_cases`."""
    return getattr(importlib.import_module("nemo2_cases"), name)(*arguments)
