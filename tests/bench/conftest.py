"""A stub server in a process of its own, and requests against it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemo_bielik.bench.connection import Address
from nemo_bielik.bench.load import Endpoint
from nemo_bielik.bench.servers import stop

STUB = Path(__file__).parent / "stub_server.py"


@pytest.fixture(scope="module")
def stub_url() -> Iterator[str]:
    """URL of a stub that sends a first token after 20 ms and one every 5 ms.

    It counts requests, and a file's first ones must be its first whatever file ran before.
    """
    words = [sys.executable, str(STUB), "--first-seconds", "0.02", "--token-seconds", "0.005"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as stub:
        try:
            assert stub.stdout is not None
            yield f"http://127.0.0.1:{int(stub.stdout.readline())}/v1"
        finally:
            stop(stub)


@pytest.fixture
def endpoint(stub_url: str) -> Endpoint:
    return Endpoint(Address.parse(stub_url), "stub")
