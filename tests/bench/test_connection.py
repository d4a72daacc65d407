"""Stamps, ends of answers, and addresses; the peer is a real socket that the test writes to."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nemo_bielik.bench.connection import CLOSED, Address, Connection, RawAnswer
from nemo_bielik.errors import ConfigError, ServerError

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
Peer = Callable[[asyncio.StreamWriter], Awaitable[None]]


def exchange(peer: Peer, seconds: float = 20.0) -> RawAnswer:
    """Send one request to a server whose answer `peer` writes."""

    async def run() -> RawAnswer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await peer(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = await Connection.open(Address.parse(f"http://127.0.0.1:{port}"))
        answer = await connection.request("GET", "/", {"host": "x"}, b"", seconds)
        connection.close()
        server.close()
        return answer

    return asyncio.run(run())


def writes(*blocks: bytes, close: bool = False) -> Peer:
    async def peer(writer: asyncio.StreamWriter) -> None:
        for block in blocks:
            writer.write(block)
            await writer.drain()
            await asyncio.sleep(0.02)  # a block of its own for the reader, nearly always
        if close:
            writer.close()

    return peer


def test_a_chunked_answer_ends_with_its_last_chunk_wherever_blocks_are_cut() -> None:
    whole = CHUNKED + b"6\r\nabcdef\r\n3\r\nghi\r\n0\r\n\r\n"
    for cut in (20, len(CHUNKED) + 4, len(whole) - 4, len(whole) - 1):
        answer = exchange(writes(whole[:cut], whole[cut:]))
        assert answer.failure == ""
        assert answer.parsed().body == b"abcdefghi"


def test_every_piece_has_the_time_of_its_own_block() -> None:
    answer = exchange(writes(CHUNKED, b"1\r\na\r\n", b"1\r\nb\r\n", b"0\r\n\r\n")).parsed()
    assert [data for _, data in answer.pieces] == [b"a", b"b"]
    (first, _), (second, _) = answer.pieces
    assert answer.sent_ns < first < second


def test_what_looks_like_the_last_chunk_inside_a_text_is_not_it() -> None:
    answer = exchange(writes(CHUNKED + b"a\r\ndata: 10\r\n\r\n"[:-2], b"\r\n0\r\n\r\n"))
    assert answer.failure == "" and answer.parsed().body == b"data: 10\r\n"


def test_a_length_ends_an_answer_too() -> None:
    answer = exchange(writes(HEAD + b"content-length: 5\r\n\r\nab", b"cde")).parsed()
    assert (answer.status, answer.content_type, answer.body) == (200, "text/event-stream", b"abcde")


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    answer = exchange(writes(HEAD + b"\r\nab", b"cd", close=True)).parsed()
    assert answer.failure == "" and answer.body == b"abcd"


def test_a_connection_that_closes_too_early_is_a_failure_with_what_came_before() -> None:
    answer = exchange(writes(CHUNKED + b"6\r\nabcdef\r\n", close=True)).parsed()
    assert answer.failure == CLOSED
    assert answer.body == b"abcdef"


def test_silence_ends_at_the_time_limit() -> None:
    async def silent(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)

    assert exchange(silent, seconds=0.05).parsed().failure == "no end of the answer after 0.05 s"


def test_what_is_not_http_is_named() -> None:
    answer = exchange(writes(b"SSH-2.0-x\r\n\r\n", close=True)).parsed()
    assert answer.failure.startswith("the answer is not HTTP")
    assert exchange(writes(close=True)).parsed().failure == CLOSED  # nothing came at all


def test_nobody_listening_is_one_line() -> None:
    with pytest.raises(ServerError, match=r"cannot connect .*; is the server running there\?"):
        asyncio.run(Connection.open(Address.parse("http://127.0.0.1:9/v1")))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1/v1/", ("h", 1, "/v1", False)),
        ("h:8000", ("h", 8000, "/v1", False)),
        ("https://api.example/openai/v1", ("api.example", 443, "/openai/v1", True)),
    ],
)
def test_addresses(url: str, expected: tuple[object, ...]) -> None:
    found = Address.parse(url)
    assert (found.host, found.port, found.path, found.secure) == expected


@pytest.mark.parametrize("url", ["ftp://h/v1", "http://", "http://h:port/v1"])
def test_bad_addresses_show_a_good_one(url: str) -> None:
    with pytest.raises(ConfigError, match="write http://host:port/v1"):
        Address.parse(url)
