"""Servers that are started: ready before use, stopped however the work ends, no orphans."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from nemo_bielik.bench import servers
from nemo_bielik.bench.servers import KINDS, ServerKind, choose_kind, find_program, serve
from nemo_bielik.errors import ConfigError, ServerError

STUB = Path(__file__).parent / "stub_server.py"
WAIT_SECONDS = 60.0
#: The stub as a kind of server, in this process and in one that is started.
KIND = f"""
import sys
from nemo_bielik.bench.servers import KINDS, ServerKind
KINDS["transformers"] = ServerKind(
    "python",
    lambda model, port: [{str(STUB)!r}, "--port", str(port), "--first-seconds", "0.02",
                         "--token-seconds", "0.05", "--name", model],
    lambda tokens: {{}}, ("--version",), "",
)
"""


@pytest.fixture
def stub_kind(monkeypatch: pytest.MonkeyPatch) -> str:
    kind = ServerKind(
        "python",
        lambda model, port: [str(STUB), "--port", str(port)],
        lambda tokens: {},
        ("--version",),
        "nothing",
    )
    monkeypatch.setitem(KINDS, "stub", kind)
    return "stub"


def is_listening(url: str) -> bool:
    port = int(url.rpartition(":")[2].partition("/")[0])
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while psutil.pid_exists(process) and psutil.Process(process).status() != "zombie":
        assert time.monotonic() < deadline, f"process {process} still runs"
        time.sleep(0.05)


def test_a_server_is_ready_in_the_block_and_gone_after_it(stub_kind: str, tmp_path: Path) -> None:
    with serve(stub_kind, sys.executable, tmp_path, [], tmp_path / "log", 60) as server:
        assert is_listening(server.url)
        assert server.version.startswith("Python 3.12")
    wait_until_gone(server.process.pid)
    assert not is_listening(server.url)


def test_an_error_in_the_block_stops_it_too(stub_kind: str, tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        serve(stub_kind, sys.executable, tmp_path, [], tmp_path / "log", 60) as server,
    ):
        raise KeyboardInterrupt
    wait_until_gone(server.process.pid)


def test_a_server_that_dies_at_its_start_shows_the_end_of_its_log(
    stub_kind: str, tmp_path: Path
) -> None:
    wrong = ["--no-such-option"]
    with (
        pytest.raises(ServerError, match=r"ended with status 2 .*unrecognized arguments"),
        serve(stub_kind, sys.executable, tmp_path, wrong, tmp_path / "log", 60),
    ):
        pass


def test_a_server_that_is_never_ready_is_given_up_and_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sleeper = ServerKind(
        "python",
        lambda model, port: ["-c", "import time; time.sleep(600)"],
        lambda tokens: {},
        (),
        "",
    )
    monkeypatch.setitem(KINDS, "sleeper", sleeper)
    monkeypatch.setattr(servers, "_version", lambda program, kind: "1")
    started = []
    real = subprocess.Popen

    def remember(*args: object, **kwargs: object) -> object:
        started.append(real(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr(servers.subprocess, "Popen", remember)
    with (
        pytest.raises(ServerError, match=r"not ready after 0\.5 s"),
        serve("sleeper", sys.executable, tmp_path, [], tmp_path / "log", 0.5),
    ):
        pass
    wait_until_gone(started[0].pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_signal_to_the_bench_leaves_its_server_behind(tmp_path: Path, number: int) -> None:
    code = KIND + textwrap.dedent(f"""
        import contextlib, time
        from pathlib import Path
        from nemo_bielik.bench.servers import serve
        from nemo_bielik.stages import end_on_sigterm
        place = Path({str(tmp_path)!r})
        with end_on_sigterm(), serve(
            "transformers", sys.executable, place, [], place / "log", 60
        ) as server:
            print(server.process.pid, flush=True)
            time.sleep(600)
    """)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as bench:
        assert bench.stdout is not None
        server = int(bench.stdout.readline())
        assert psutil.pid_exists(server)
        bench.send_signal(number)
        bench.wait(WAIT_SECONDS)
    wait_until_gone(server)


def test_auto_is_vllm_only_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    assert choose_kind("auto") == "transformers"
    monkeypatch.setattr(servers.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert choose_kind("auto") == "vllm"
    assert choose_kind("transformers") == "transformers"


def test_the_engines_own_environment_is_not_served_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with pytest.raises(ConfigError, match=r"install it in an environment of its own .*uv tool"):
        find_program("transformers", None)
    program = tmp_path / "transformers"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_program("transformers", None) == str(program)
    assert find_program("transformers", program) == str(program)
    with pytest.raises(ConfigError, match="no program '/absent'"):
        find_program("vllm", Path("/absent"))
