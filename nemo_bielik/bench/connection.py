"""HTTP/1.1 with the times at which its bytes came: what a latency is made of.

Bytes are stamped by the event loop's own read callback, which looks only for the end of an answer.
They are parsed (by h11) when the round is over: 64 answers that end together would otherwise delay
each other's stamps by milliseconds each. Times are ``time.perf_counter_ns``.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from nemo_bielik.errors import ConfigError, ServerError

_END_OF_CHUNKS = b"\r\n0\r\n\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_CHUNKED = re.compile(rb"^transfer-encoding:\s*chunked", re.IGNORECASE | re.MULTILINE)
_LENGTH = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_CLOSES = re.compile(rb"^connection:\s*close", re.IGNORECASE | re.MULTILINE)
CLOSED = "the server closed the connection"


@dataclass(frozen=True)
class Address:
    """Where an API lies: ``http://host:port/v1`` taken apart; `url` is what the user wrote."""

    url: str
    host: str
    port: int
    path: str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read a URL; raise `ConfigError` if it is not one of an HTTP server."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"url is {url!r} ({error}); write http://host:port/v1") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"url is {url!r}; write http://host:port/v1")
        secure = parts.scheme == "https"
        path = parts.path.rstrip("/") or "/v1"
        return cls(url, parts.hostname, port or (443 if secure else 80), path, secure)


@dataclass
class Answer:
    """One HTTP answer, parsed: the pieces of its body with their times; `failure` if not whole."""

    sent_ns: int
    status: int = 0
    content_type: str = ""
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    failure: str = ""

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(data for _, data in self.pieces)


@dataclass
class RawAnswer:
    """One answer as it came: blocks of bytes with their times, and how it ended early if it did."""

    sent_ns: int
    blocks: list[tuple[int, bytes]] = field(default_factory=list)
    failure: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether it begins as a stream of events does: status 200, ``text/event-stream``."""
        head = b"".join(data for _, data in self.blocks).partition(_END_OF_HEAD)[0].lower()
        return head.startswith((b"http/1.1 200", b"http/1.0 200")) and b"event-stream" in head

    def parsed(self) -> Answer:
        """Return the answer with its transfer encoding undone."""
        answer = Answer(self.sent_ns, failure=self.failure)
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="POST", target="/", headers=[("host", "")]))
        parser.send(h11.EndOfMessage())
        last = self.blocks[-1][0] if self.blocks else self.sent_ns
        ended = [(last, b"")] if self.failure == CLOSED else []
        try:
            for stamp, data in [*self.blocks, *ended]:
                parser.receive_data(data)
                if _take_events(parser, stamp, answer):
                    answer.failure = ""  # whole, if only because the connection's end ends it
                    return answer
        except h11.RemoteProtocolError as error:
            if self.blocks and not answer.status:
                answer.failure = f"the answer is not HTTP ({error})"
        answer.failure = answer.failure or CLOSED
        return answer


def _take_events(parser: h11.Connection, stamp: int, answer: Answer) -> bool:
    """Take what h11 has to say of the data so far; return whether the answer is complete."""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Response):
            answer.status = event.status_code
            kinds = [value for name, value in event.headers if name == b"content-type"]
            answer.content_type = kinds[0].decode("latin-1") if kinds else ""
        elif isinstance(event, h11.Data):
            answer.pieces.append((stamp, bytes(event.data)))
        elif isinstance(event, h11.EndOfMessage):
            return True
        elif not isinstance(event, h11.InformationalResponse):
            return False


class Connection(asyncio.Protocol):
    """One kept-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._answer = RawAnswer(0)
        self._finished: asyncio.Future[RawAnswer] | None = None
        self._head_is_read = self._is_chunked = self._closes = False
        self._bytes_left: int | None = None
        self._tail = b""

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        """Connect; raise `ServerError` if nothing listens there."""
        context = ssl.create_default_context() if address.secure else None
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                cls, address.host, address.port, ssl=context
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServerError(
                f"{address.url}: cannot connect ({reason}); is the server running there?"
            ) from None
        return connection

    @property
    def is_usable(self) -> bool:
        """Whether another request can be sent on this connection."""
        return self.transport is not None and not self.transport.is_closing()

    def close(self) -> None:
        """Close; what is under way is given up."""
        if self.transport is not None:
            self.transport.abort()

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> RawAnswer:
        """Send a request and return its answer; `RawAnswer.failure` says if it broke off."""
        assert self.transport is not None
        lines = [f"{method} {path} HTTP/1.1", *(f"{key}: {headers[key]}" for key in headers)]
        lines.append(f"content-length: {len(body)}")
        wire = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        self._head_is_read = self._is_chunked = self._closes = False
        self._bytes_left, self._tail = None, b""
        self._finished = asyncio.get_running_loop().create_future()
        self._answer = RawAnswer(time.perf_counter_ns())
        self.transport.write(wire)
        try:
            async with asyncio.timeout(seconds):
                return await self._finished
        except TimeoutError:
            self.close()
            self._answer.failure = f"no end of the answer after {seconds:g} s"
            return self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio calls this)."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Stamp a block of bytes and see whether it is the last (asyncio calls this)."""
        self._answer.blocks.append((time.perf_counter_ns(), data))
        if not self._head_is_read:
            self._read_head()
        elif self._bytes_left is not None:
            self._bytes_left -= len(data)
        self._tail = (self._tail + data)[-len(_END_OF_CHUNKS) :]
        if (self._bytes_left is not None and self._bytes_left <= 0) or (
            self._is_chunked and self._tail == _END_OF_CHUNKS
        ):
            self._finish("")

    def _read_head(self) -> None:
        """Find out, once all of it is there, how the answer's end will be known."""
        so_far = b"".join(data for _, data in self._answer.blocks)
        head, end, body = so_far.partition(_END_OF_HEAD)
        if not end:
            return
        self._head_is_read = True
        self._is_chunked = _CHUNKED.search(head) is not None
        self._closes = _CLOSES.search(head) is not None
        length = _LENGTH.search(head)
        if length is not None and not self._is_chunked:
            self._bytes_left = int(length[1]) - len(body)

    def connection_lost(self, error: Exception | None) -> None:
        """End what is under way; whether it was whole is for the parser (asyncio calls this)."""
        self._finish(CLOSED)

    def _finish(self, failure: str) -> None:
        if self._finished is None or self._finished.done():
            return
        self._answer.failure = failure
        if self._closes:
            self.close()
        self._finished.set_result(self._answer)
