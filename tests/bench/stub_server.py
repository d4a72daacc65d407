"""An OpenAI-compatible server without a model: tokens at known times, which it writes down.

It stands for the network side of a server only. Every request's arrival and every token's moment of
sending are kept (``CLOCK_MONOTONIC`` nanoseconds, which other processes of this machine share) and
served at ``GET /record``. What it does wrong is chosen by the name of the model that is asked for.

    python tests/bench/stub_server.py --port 0       # prints the port that it got
"""

import argparse
import asyncio
import json
import time
from typing import Any

MODELS = ("stub", "dies", "no-stream", "error", "no-sse", "empty", "no-usage")


class Stub:
    """The state of one server: when tokens are due, and when they were sent."""

    def __init__(self, names: tuple[str, ...], first_seconds: float, token_seconds: float) -> None:
        self.names = names
        self.first_seconds = first_seconds
        self.token_seconds = token_seconds
        self.record: list[dict[str, Any]] = []
        self.served: dict[str, int] = {}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one kept-alive connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                arrival = time.perf_counter_ns()
                request_line, *lines = head.decode().split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
                length = int(headers.get("content-length", 0))
                body = json.loads(await reader.readexactly(length)) if length else {}
                method, path, _ = request_line.split(" ")
                await self.answer(writer, method, path.split("?")[0], body, arrival)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(
        self,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        body: dict[str, Any],
        arrival: int,
    ) -> None:
        """Answer one request."""
        if method == "GET":
            found: Any = {
                "/v1/models": {"object": "list", "data": [{"id": one} for one in self.names]},
                "/record": self.record,
                "/health": {"status": "ok"},
            }.get(path)
            await _plain(writer, 200 if found is not None else 404, found)
        elif body.get("model") not in self.names:
            message = f"The model `{body.get('model')}` does not exist."
            await _plain(writer, 404, {"error": {"message": message}})
        elif body["model"] == "error":
            await _plain(writer, 500, {"error": {"message": "out of memory"}})
        elif body["model"] == "no-stream" or not body.get("stream"):
            await _plain(writer, 200, _whole(body))
        elif body["model"] == "no-sse":
            await _plain(writer, 200, "<html>hello</html>")
        else:
            await self.stream(writer, body, arrival, is_chat=path.endswith("/chat/completions"))

    async def stream(
        self, writer: asyncio.StreamWriter, body: dict[str, Any], arrival: int, is_chat: bool
    ) -> None:
        """Send tokens as server-sent events at their times."""
        model = body["model"]
        self.served[model] = self.served.get(model, 0) + 1
        tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 16)
        tokens = 0 if model == "empty" else tokens
        sent: list[int] = []
        self.record.append({"model": model, "arrival": arrival, "sent": sent, "tokens": tokens})
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for number in range(tokens):
            due = arrival / 1e9 + self.first_seconds + number * self.token_seconds
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if model == "dies" and self.served[model] > 2 and number == 2:
                writer.transport.abort()
                return
            sent.append(time.perf_counter_ns())
            await _event(writer, _token(model, is_chat))
        if model != "no-usage" and body.get("stream_options", {}).get("include_usage"):
            usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
            await _event(writer, {"id": "1", "model": model, "choices": [], "usage": usage})
        await _event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _token(model: str, is_chat: bool) -> dict[str, Any]:
    part = {"delta": {"content": " a"}} if is_chat else {"text": " a"}
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    choice = {"index": 0, "finish_reason": None, **part}
    return {"id": "1", "object": kind, "created": 0, "model": model, "choices": [choice]}


def _whole(body: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": " a a"}
    choice = {"index": 0, "message": message, "text": " a a", "finish_reason": "length"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    return {"id": "1", "model": body["model"], "choices": [choice], "usage": usage}


async def _event(writer: asyncio.StreamWriter, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    data = f"data: {text}\n\n".encode()
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _plain(writer: asyncio.StreamWriter, status: int, value: Any) -> None:
    data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
    kind = "text/html" if isinstance(value, str) else "application/json"
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}"
    writer.write(f"{head}\r\n\r\n".encode() + data)
    await writer.drain()


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--first-seconds", type=float, default=0.2)
    parser.add_argument("--token-seconds", type=float, default=0.05)
    parser.add_argument("--name", help="one more model that behaves well")
    given = parser.parse_args()
    names = (*MODELS, given.name) if given.name else MODELS
    stub = Stub(names, given.first_seconds, given.token_seconds)
    server = await asyncio.start_server(stub.connection, "127.0.0.1", given.port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
