"""One process that knows NeMo 2, for all tests of this folder: importing NeMo takes a minute."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.launch.local import die_with

HERE = Path(__file__).parent
if str(HERE) not in sys.path:  # handed on to the process, which imports the cases
    sys.path.insert(0, str(HERE))


@functools.cache
def nemo_process() -> ProcessPoolExecutor:
    """Start the process; it imports NeMo while tests without it run."""
    pool = ProcessPoolExecutor(
        1, mp_context=get_context("spawn"), initializer=die_with, initargs=(os.getpid(),)
    )
    pool.submit(importlib.import_module, "nemo2_cases")
    return pool


def pytest_collection_finish(session: pytest.Session) -> None:
    if any("nemo2" in getattr(item, "fixturenames", ()) for item in session.items):
        nemo_process()


@pytest.fixture(scope="session")
def nemo2() -> Iterator[Callable[..., Any]]:
    """Return a function that runs a function of `nemo2_cases` there and returns its value."""

    def run(name: str, *arguments: Any) -> Any:
        return nemo_process().submit(_run, name, *arguments).result(timeout=240)

    yield run
    for process in (nemo_process()._processes or {}).values():
        process.terminate()  # one that hangs is not waited for


def _run(name: str, *arguments: Any) -> Any:
    return getattr(importlib.import_module("nemo2_cases"), name)(*arguments)
