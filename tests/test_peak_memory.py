"""The peak counts this process and whatever it started, and stays when that is gone.

Each measurement runs in a process of its own: the one that runs the tests holds gigabytes, and has
children that other tests started and that come and go meanwhile.
"""

import json
import subprocess
import sys
import time

import pytest

from nemo_bielik.peak_memory import PeakMemory

MEGABYTE = 10**6
CHILD = "import sys; held = b'x' * int(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
GRANDCHILD = (
    "import subprocess, sys; "
    f'child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]]); child.wait()'
)

#: What every measurement begins with; samples are taken often.
BEGINNING = f"""
import json, subprocess, sys, time
import psutil
from nemo_bielik import peak_memory

peak_memory._INTERVAL_SECONDS = 0.02
before = psutil.Process().memory_info().rss

def hold(code, size):
    command = [sys.executable, "-c", code, str(size)]
    with subprocess.Popen(command, text=True, stdin=-1, stdout=-1) as child:
        assert child.stdout.readline() == "ready\\n"
        time.sleep(0.5)
        child.stdin.close()

CHILD, GRANDCHILD = {CHILD!r}, {GRANDCHILD!r}
"""
END = "print(json.dumps([peak - before for peak in peaks]))"


def measured(*lines):
    """Run the lines, which gather ``peaks``; return by how much each exceeds the beginning."""
    code = "\n".join([BEGINNING, *lines, END])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("descendant", ["CHILD", "GRANDCHILD"])
def test_what_a_descendant_holds_shows(descendant):
    during, after = measured(
        "with peak_memory.PeakMemory() as memory:",
        f"    hold({descendant}, {200 * MEGABYTE})",
        "    peaks = [memory.peak_bytes]",
        "peaks.append(memory.peak_bytes)",
    )
    assert 200 * MEGABYTE < during < 300 * MEGABYTE
    assert after >= during  # although the child is gone


def test_the_peak_is_of_one_moment_not_the_sum_of_many():
    (peak,) = measured(
        "with peak_memory.PeakMemory() as memory:",
        f"    hold(CHILD, {100 * MEGABYTE})",
        f"    hold(CHILD, {100 * MEGABYTE})",
        "peaks = [memory.peak_bytes]",
    )
    assert 100 * MEGABYTE < peak < 180 * MEGABYTE


def test_this_process_counts_too():
    (peak,) = measured(
        "with peak_memory.PeakMemory() as memory:",
        f"    held = b'x' * {150 * MEGABYTE}",
        "    time.sleep(0.3)",
        "peaks = [memory.peak_bytes]",
    )
    assert 150 * MEGABYTE <= peak < 200 * MEGABYTE


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
