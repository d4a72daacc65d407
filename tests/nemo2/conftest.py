"""What tests of NeMo 2 share."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if str(Path(__file__).parent) not in sys.path:  # handed on to the process, which imports the cases
    sys.path.insert(0, str(Path(__file__).parent))

from nemo2_process import nemo_process, run_case


def pytest_collection_finish(session: pytest.Session) -> None:
    if any("nemo2" in getattr(item, "fixturenames", ()) for item in session.items):
        nemo_process()


@pytest.fixture(scope="session")
def nemo2() -> Iterator[Callable[..., Any]]:
    """Return a function that runs a function of `nemo2_cases` there and returns its value."""

    def run(name: str, *arguments: Any) -> Any:
        return nemo_process().submit(run_case, name, *arguments).result(timeout=280)

    yield run
    for process in (nemo_process()._processes or {}).values():
        process.terminate()  # one that hangs is not waited for
