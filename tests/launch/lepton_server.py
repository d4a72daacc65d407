"""A workspace of Lepton on this machine: records every request and refuses what it should not get.

Jobs that copy files are carried out (their shell command runs, with the mount moved into a folder);
others go through the states that a test gives them.
"""

import base64
import io
import json
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "token-of-the-test"
NODES = ("node-1", "node-2")


@dataclass
class Workspace:
    """What was asked, and what has come of it."""

    storage: Path
    url: str = ""
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: str = "Running"

    def answer(self, method: str, path: str, body: Any) -> Any:
        """Return what a request gets; None: there is no such thing."""
        self.requests.append((method, path, body))
        group = {"metadata": {"id": "group-id", "name": "group"}, "spec": {}, "status": {}}
        unused = {"unschedulable": False}
        fixed: dict[tuple[str, str], Any] = {
            ("GET", "/dedicated-node-groups"): [group],
            ("GET", "/dedicated-node-groups/group-id/nodes"): [
                {"metadata": {"id": name, "name": name}, "spec": unused, "status": None}
                for name in NODES
            ],
            ("GET", "/usersecrets"): [{"name": "hf-token"}],
        }
        if (method, path) in fixed:
            return fixed[method, path]
        if (method, path) == ("POST", "/jobs"):
            return self.create(body)
        found = re.fullmatch(r"/jobs/([^/]+)(/.*)?", path)
        if found is None or found[1] not in self.jobs:
            return None
        return self.about(method, found[1], found[2] or "", body)

    def create(self, job: dict[str, Any]) -> dict[str, Any]:
        """Take a job; the one that carries files is carried out."""
        name = job["metadata"]["id"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,34}[a-z0-9])?", name):
            self.complaints.append(f"name {name!r} is not one that Kubernetes takes")
        if name in self.jobs:
            self.complaints.append(f"a job called {name!r} exists")
        command = job["spec"]["container"]["command"]
        carried = re.search(r"mkdir -p (\S+) && echo (\S+) \| base64 -d", command[-1])
        if carried:
            place = self.storage / carried[1].removeprefix("/shared/")
            place.mkdir(parents=True)
            archive = io.BytesIO(base64.b64decode(carried[2]))
            with tarfile.open(fileobj=archive) as tar:
                tar.extractall(place, filter="data")
        state = "Completed" if carried else self.state
        self.jobs[name] = job | {"status": self.status(state)}
        return self.jobs[name]

    def about(self, method: str, name: str, rest: str, body: Any) -> Any:
        """Answer about one job."""
        if method == "GET" and not rest:
            return self.jobs[name]
        if method == "DELETE" and not rest:
            del self.jobs[name]
            return {}
        if method == "PATCH" and not rest:
            if body["spec"].get("stopped"):
                self.jobs[name]["status"] = self.status("Stopped")
            return self.jobs[name]
        if method == "GET" and rest == "/replicas":
            names = [f"{name}-1-bbbbb", f"{name}-0-aaaaa"]
            return [{"metadata": {"id": replica}, "id": replica} for replica in names]
        if method == "GET" and rest == f"/replicas/{name}-0-aaaaa/log":
            return "step 1\nstep 2\n"
        return None

    def status(self, state: str) -> dict[str, Any]:
        """Return a job's status as the service words it."""
        numbers = {"ready": 2, "active": 2, "failed": 0, "succeeded": 0, "creation_time": 1}
        return {"state": state, "job_name": "", "completion_time": 0, **numbers}


@contextmanager
def serving(storage: Path) -> Iterator[Workspace]:
    """Serve a workspace on a port of this machine."""
    workspace = Workspace(storage)

    class Handler(BaseHTTPRequestHandler):
        def reply(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            path = self.path.partition("?")[0]
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                workspace.complaints.append(f"{path}: no token")
            if text and TOKEN.encode() in text:
                workspace.complaints.append(f"{path}: a secret in the body")
            found = workspace.answer(self.command, path, json.loads(text) if text else None)
            if found is None:
                workspace.complaints.append(f"{self.command} {path}: there is no such thing")
            content = found if isinstance(found, str) else json.dumps(found)
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Length", str(len(content.encode())))
            self.end_headers()
            self.wfile.write(content.encode())

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = reply

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    workspace.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield workspace
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
