"""Ranks of one machine: their variables, their failures, their signals and their end.

The ranks run a stand-in for the package: ``python -m nemo_bielik`` looks first where it is started.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from nemo_bielik.launch.local import die_with, free_port, rank_variables, run_distributed

PATIENCE_SECONDS = 60
STAND_IN = """\
import json, os, pathlib, signal, sys, time

rank, folder = os.environ["RANK"], pathlib.Path()

def write(name, value):
    scratch = folder / f".{name}-{rank}"
    scratch.write_text(json.dumps(value))
    scratch.rename(folder / f"{name}-{rank}.json")

def on_signal(number, frame):
    write("signal", number)
    sys.exit(30 + int(rank))

def listen():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)

write("words", sys.argv[1:])
write("variables", dict(os.environ))
action = dict(word.split("=") for word in sys.argv[1:]).get(f"rank{rank}", "return")
if action == "wait":
    listen()
if action == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
write("started", os.getpid())
if action in ("wait", "deaf"):
    time.sleep(600)
if action.startswith("exit"):
    others = [f"started-{n}.json" for n in range(int(os.environ["WORLD_SIZE"]))]
    while not all((folder / other).exists() for other in others):
        time.sleep(0.01)
    sys.exit(int(action.removeprefix("exit")))
if action == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where the ranks run and leave their notes."""
    (tmp_path / "nemo_bielik").mkdir()
    (tmp_path / "nemo_bielik" / "__init__.py").touch()
    (tmp_path / "nemo_bielik" / "__main__.py").write_text(STAND_IN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


def notes(folder, name):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-*.json"))]


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_ranks_get_the_words_and_torchruns_variables(folder):
    assert run_distributed(["a=1"], 3) == 0
    assert notes(folder, "words") == [["a=1"]] * 3
    ranks = notes(folder, "variables")
    for number, variables in enumerate(ranks):
        assert variables["RANK"] == variables["LOCAL_RANK"] == str(number)
        assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "3"
        assert (variables["GROUP_RANK"], variables["GROUP_WORLD_SIZE"]) == ("0", "1")
        assert variables["MASTER_ADDR"] == "127.0.0.1"
    (port,) = {variables["MASTER_PORT"] for variables in ranks}
    assert 1024 <= int(port) < 65536
    assert rank_variables(1, 3, int(port)).items() <= ranks[1].items()


@pytest.mark.parametrize(
    ("processes", "given", "wanted"), [(2, None, "1"), (2, "3", "3"), (1, None, None)]
)
def test_several_ranks_use_one_thread_each_unless_told(
    folder, monkeypatch, processes, given, wanted
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert run_distributed([], processes) == 0
    found = [variables.get("OMP_NUM_THREADS") for variables in notes(folder, "variables")]
    assert found == [wanted] * processes


@pytest.mark.parametrize(("action", "status"), [("exit7", 7), ("killed", 128 + signal.SIGKILL)])
def test_the_first_failing_status_is_returned_and_the_others_are_stopped(folder, action, status):
    assert run_distributed(["rank0=wait", f"rank1={action}"], 2) == status
    assert all(map(is_gone, notes(folder, "started")))


def test_a_rank_that_was_told_to_stop_notices_it(folder):
    assert run_distributed(["rank0=wait", "rank1=exit7"], 2) == 7
    assert notes(folder, "signal") == [signal.SIGTERM]


def test_a_rank_that_does_not_listen_is_killed(folder, monkeypatch):
    monkeypatch.setattr("nemo_bielik.launch.local._GRACE_SECONDS", 0.2)
    assert run_distributed(["rank0=deaf", "rank1=exit3"], 2) == 3
    assert all(map(is_gone, notes(folder, "started")))


def test_ranks_that_finish_at_different_times_are_all_waited_for(folder):
    assert run_distributed(["rank1=exit0"], 2) == 0
    assert len(notes(folder, "started")) == 2


@pytest.fixture
def launcher(folder):
    """Return a function that starts a launcher of its own on two ranks and waits for them."""
    path = folder / "scripts" / "launch.py"  # elsewhere, so that it finds the real package
    path.parent.mkdir()
    path.write_text(
        "import sys\nfrom nemo_bielik.launch.local import run_distributed\n"
        "sys.exit(run_distributed(sys.argv[1:], 2))\n"
    )
    with contextlib.ExitStack() as stack:

        def start(*words):
            process = stack.enter_context(subprocess.Popen([sys.executable, path, *words]))
            stack.callback(process.kill)
            wait_for(lambda: len(notes(folder, "started")) == 2, "the start of the ranks")
            return process

        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_every_rank(folder, launcher, number):
    process = launcher("rank0=wait", "rank1=wait")
    process.send_signal(number)
    assert process.wait(PATIENCE_SECONDS) in (30, 31)
    assert notes(folder, "signal") == [number, number]


def test_the_callers_own_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_distributed(["rank0=exit1"], 1)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of a parent's death")
def test_a_child_ends_with_its_parent(tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "from nemo_bielik.launch.local import die_with\n"
        "parent = os.getpid()\n"
        "if os.fork() == 0:\n"
        "    die_with(parent)\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    note = tmp_path / "scripts"
    note.mkdir()
    script = note / "parent.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script, str(note / "child")]) as parent:
        wait_for(lambda: (note / "child").exists() and (note / "child").read_text(), "the child")
        child = int((note / "child").read_text())
        assert not is_gone(child)
        parent.kill()
    wait_for(lambda: is_gone(child), "the child's end")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of a parent's death")
def test_a_child_that_comes_too_late_ends_at_once():
    with pytest.raises(SystemExit):
        die_with(os.getpid())  # no parent of this process


def test_a_free_port_can_be_listened_on():
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port()))
        server.listen()
        with socket.create_connection(server.getsockname(), timeout=5):
            assert free_port() != server.getsockname()[1]
