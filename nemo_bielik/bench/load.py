"""A closed loop of requests: so many lanes, each sending its next request when one is answered."""

import asyncio
import gc
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.bench.answers import CountTokens, read_answer
from nemo_bielik.bench.connection import Address, Connection, RawAnswer
from nemo_bielik.bench.metrics import RequestTimes
from nemo_bielik.errors import ServerError, nearest

PATHS = {"completions": "/completions", "chat": "/chat/completions"}
_LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class Endpoint:
    """A served model: where, under which name, and what every request to it carries."""

    address: Address
    model: str
    kind: str = "completions"
    headers: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    count_tokens: CountTokens | None = None

    def body(self, prompt: str, output_tokens: int) -> bytes:
        """Return a request's JSON."""
        chat = {"messages": [{"role": "user", "content": prompt}]}
        value = {
            "model": self.model,
            **(chat if self.kind == "chat" else {"prompt": prompt}),
            "max_tokens": output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.extra,
        }
        return json.dumps(value, ensure_ascii=False).encode()

    @property
    def _all_headers(self) -> dict[str, str]:
        host = f"{self.address.host}:{self.address.port}"
        return {"host": host, "content-type": "application/json", **self.headers}

    async def send(self, connection: Connection, body: bytes, seconds: float) -> RawAnswer:
        """Send one request and return its answer, unread."""
        path = self.address.path + PATHS[self.kind]
        return await connection.request("POST", path, self._all_headers, body, seconds)

    def read(self, answer: RawAnswer) -> RequestTimes:
        """Return an answer's times; raise `ServerError` if it is no stream of tokens."""
        return read_answer(answer.parsed(), self.address.url, self.model, self.count_tokens)

    async def check_name(self) -> None:
        """Raise `ServerError` if the server lists its models and ours is not among them."""
        connection = await Connection.open(self.address)
        path = self.address.path + "/models"
        raw = await connection.request("GET", path, self._all_headers, b"", _LOOK_SECONDS)
        connection.close()
        answer = raw.parsed()
        try:
            listed = json.loads(answer.body)["data"] if answer.status == 200 else []
            names = [str(one["id"]) for one in listed]
        except (ValueError, KeyError, TypeError):
            return  # a server without such a list; the first request will tell
        if names and self.model not in names:
            raise ServerError(
                f"{self.address.url}: serves no model {self.model!r}"
                f"{nearest(self.model, names)}; it has {', '.join(names[:8])}"
            )


@dataclass
class Round:
    """What one round of requests gave; `failure` is why it broke off, if it did."""

    requests: list[RequestTimes] = field(default_factory=list)
    failure: str = ""


async def run_round(
    endpoint: Endpoint,
    bodies: Sequence[bytes],
    lanes: int,
    ramp_seconds: float,
    timeout_seconds: float,
) -> Round:
    """Send all `bodies` over `lanes` connections; the first failure ends the round.

    Connections are opened before and kept, so no time to first token holds a handshake. The lanes
    start evenly over `ramp_seconds`: a burst of first requests would measure how fast a server
    accepts. Answers are read when all have come, and Python's garbage collector waits until then.
    """
    answers: list[RawAnswer] = []
    waiting = iter(bodies)
    connections: list[Connection] = []

    async def lane(number: int) -> None:
        await asyncio.sleep(ramp_seconds * number / lanes)
        for body in waiting:
            if not connections[number].is_usable:
                connections[number] = await Connection.open(endpoint.address)
            answer = await endpoint.send(connections[number], body, timeout_seconds)
            answers.append(answer)
            if answer.failure or not answer.is_stream:
                endpoint.read(answer)  # raises, but for an answer that its connection's end ends

    failure = ""
    tasks: list[asyncio.Task[None]] = []
    try:
        with _no_garbage_collection():
            for _ in range(lanes):  # kept one by one: those that did open are closed below
                connections.append(await Connection.open(endpoint.address))  # noqa: PERF401
            tasks = [asyncio.ensure_future(lane(number)) for number in range(lanes)]
            await asyncio.gather(*tasks)
    except ServerError as error:
        failure = str(error)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            connection.close()
    return _read_all(endpoint, answers, failure)


def _read_all(endpoint: Endpoint, answers: Sequence[RawAnswer], failure: str) -> Round:
    """Return the times of all whole answers, and the first failure."""
    found = Round(failure=failure)
    for answer in answers:
        try:
            found.requests.append(endpoint.read(answer))
        except ServerError as error:
            found.failure = found.failure or str(error)
    return found


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
