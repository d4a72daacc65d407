"""Servers that a bench starts, waits for and stops: vLLM where there is a GPU, transformers else.

Both live in environments of their own (``uv tool install``); only their programs are named here.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.errors import ConfigError, ServerError
from nemo_bielik.launch.local import free_port

_POLL_SECONDS = 0.25
_STOP_SECONDS = 20.0
_LOG_LINES = 3
#: Servers on this machine are reached directly, whatever proxy the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class ServerKind:
    """How one server is started and what makes it answer with exactly so many tokens."""

    program: str
    arguments: Callable[[str, int], list[str]]
    extra_body: Callable[[int], dict[str, Any]]
    version: tuple[str, ...]
    install: str
    environment: dict[str, str] = field(default_factory=dict)


def _vllm_arguments(model: str, port: int) -> list[str]:
    return ["serve", model, "--host", "127.0.0.1", "--port", str(port)]


def _transformers_body(output_tokens: int) -> dict[str, Any]:
    """Greedy, and not before the last token an end: its API has no ``ignore_eos``."""
    wanted = {"min_new_tokens": output_tokens, "max_new_tokens": output_tokens, "do_sample": False}
    return {"generation_config": json.dumps(wanted)}


KINDS = {
    "vllm": ServerKind(
        "vllm",
        _vllm_arguments,
        lambda tokens: {"ignore_eos": True, "temperature": 0.0},
        ("--version",),
        "uv tool install vllm",
    ),
    "transformers": ServerKind(
        "transformers",
        lambda model, port: [*_vllm_arguments(model, port), "--device", "cpu"],
        _transformers_body,
        ("version",),
        "uv tool install 'transformers[serving]==5.23.0' --with torch",
        {"HF_HUB_OFFLINE": "1"},
    ),
}


@dataclass
class Server:
    """A started server; `command` and `version` are for the record."""

    process: subprocess.Popen[bytes]
    url: str
    command: list[str]
    version: str
    log: Path


def choose_kind(wanted: str) -> str:
    """Return the kind of server for ``auto``: vLLM with a GPU, transformers without."""
    if wanted != "auto":
        return wanted
    return "vllm" if shutil.which("nvidia-smi") else "transformers"


def find_program(kind: str, given: Path | None) -> str:
    """Return the path of the server's program; raise `ConfigError` saying how to get it.

    The environment that this package runs in is not searched: its transformers is the engine's.
    """
    if given is not None:
        found = shutil.which(str(given))
    else:
        own = Path(sys.executable).parent
        places = os.environ.get("PATH", "").split(os.pathsep)
        others = [place for place in places if Path(place).resolve() != own.resolve()]
        found = shutil.which(KINDS[kind].program, path=os.pathsep.join(others))
    if found is None:
        raise ConfigError(
            f"no program {str(given or KINDS[kind].program)!r} to serve with; install it in an "
            f"environment of its own ({KINDS[kind].install}) and name it by --server-program"
        )
    return found


def _version(program: str, kind: str) -> str:
    words = [program, *KINDS[kind].version]
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = run.stdout.strip().splitlines()
    return lines[-1] if run.returncode == 0 and lines else "unknown"


@contextlib.contextmanager
def serve(
    kind: str, program: str, model: Path, arguments: list[str], log: Path, ready_seconds: float
) -> Iterator[Server]:
    """Start a server for a model directory, wait until it is ready, and stop it at the end.

    It is stopped however the block ends, and by the kernel if this process is killed. Raises
    `ServerError` with the end of its log if it dies before it is ready or is not ready in time.
    """
    version = _version(program, kind)
    port = free_port()
    command = [program, *KINDS[kind].arguments(str(model), port), *arguments]
    guarded = [sys.executable, "-m", "nemo_bielik.bench.guarded", str(os.getpid()), *command]
    environment = {**os.environ, **KINDS[kind].environment}
    environment.setdefault("HF_HUB_CACHE", str(log.parent))  # transformers lists it, absent or not
    with log.open("wb") as stream:
        process = subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop all that it started
        )
    server = Server(process, f"http://127.0.0.1:{port}/v1", command, version, log)
    try:
        _wait_until_ready(server, f"http://127.0.0.1:{port}/health", ready_seconds)
        yield server
    finally:
        stop(process)


def _wait_until_ready(server: Server, health: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = server.process.poll()
        if status is not None:
            raise ServerError(
                f"the server ended with status {status} before it was ready: {_end(server.log)} "
                f"(all of it in {server.log})"
            )
        with contextlib.suppress(OSError), _DIRECT.open(health, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(_POLL_SECONDS)
    raise ServerError(
        f"the server was not ready after {seconds:g} s; see {server.log}, or give it longer by "
        "--ready-seconds"
    )


def _end(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()][-_LOG_LINES:]
    return " / ".join(said)[-400:] or "it said nothing"


def stop(process: subprocess.Popen[Any]) -> None:
    """End a server and everything it started: asked first, killed after `_STOP_SECONDS`."""
    for number, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what outlived its leader
