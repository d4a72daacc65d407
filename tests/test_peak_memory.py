"""The peak counts this process and whatever it started, and stays when that is gone."""

import subprocess
import sys
import time

import psutil
import pytest

from nemo_bielik import peak_memory
from nemo_bielik.peak_memory import PeakMemory

MEGABYTE = 10**6
CHILD = "import sys; held = b'x' * int(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
GRANDCHILD = (
    "import subprocess, sys; "
    f'child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]]); child.wait()'
)


@pytest.fixture(autouse=True)
def sampled_often(monkeypatch):
    monkeypatch.setattr(peak_memory, "_INTERVAL_SECONDS", 0.02)


def held_now():
    """Return what this process and its children hold: other tests may have left some running."""
    me = psutil.Process()
    return sum(process.memory_info().rss for process in [me, *me.children(recursive=True)])


def hold(code, megabytes):
    """Have a process hold memory while a few samples are taken."""
    command = [sys.executable, "-c", code, str(megabytes * MEGABYTE)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as child:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        child.stdin.close()


@pytest.mark.parametrize("code", [CHILD, GRANDCHILD], ids=["child", "grandchild"])
def test_what_a_descendant_holds_shows(code):
    before = held_now()
    with PeakMemory() as memory:
        hold(code, 200)
        peak = memory.peak_bytes
    assert 200 * MEGABYTE < peak - before < 300 * MEGABYTE
    assert memory.peak_bytes >= peak  # although the child is gone


def test_the_peak_is_of_one_moment_not_the_sum_of_many():
    before = held_now()
    with PeakMemory() as memory:
        for _ in range(2):
            hold(CHILD, 100)
    assert 100 * MEGABYTE < memory.peak_bytes - before < 180 * MEGABYTE


def test_this_process_counts_too():
    before = held_now()
    with PeakMemory() as memory:
        held = b"x" * (150 * MEGABYTE)
        time.sleep(0.3)
    assert memory.peak_bytes - before > 140 * MEGABYTE
    assert len(held) == 150 * MEGABYTE


def test_even_a_short_block_is_seen():
    with PeakMemory() as memory:
        pass
    assert memory.peak_bytes > MEGABYTE


def test_nothing_is_sampled_after_the_block_and_its_error_comes_through():
    with pytest.raises(KeyError), PeakMemory() as memory:
        raise KeyError
    peak = memory.peak_bytes
    held = b"x" * (100 * MEGABYTE)
    time.sleep(0.1)
    assert memory.peak_bytes == peak
    assert not memory._thread.is_alive()
    assert len(held) == 100 * MEGABYTE
