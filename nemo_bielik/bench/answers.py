"""Answers of OpenAI-compatible servers: events to times and tokens, errors to one line.

Server-sent events are blocks of ``data:`` lines that an empty line ends (WHATWG HTML, 9.2); an
event has the time of the block of bytes that completed it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nemo_bielik.bench.connection import Answer
from nemo_bielik.bench.metrics import RequestTimes
from nemo_bielik.errors import ServerError

CountTokens = Callable[[str], int]
#: What text may be called in the delta of a chat: an answer, or thoughts before it.
_DELTAS = ("content", "reasoning_content", "reasoning")


def server_sent_events(pieces: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, str]]:
    """Yield the data of every event with its time."""
    rest = b""
    for stamp, data in pieces:
        lines = (rest + data).replace(b"\r\n", b"\n")
        *events, rest = lines.split(b"\n\n")
        for event in events:
            values = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if values:
                yield stamp, b"\n".join(values).decode("utf-8", "replace")


def read_answer(
    answer: Answer, url: str, model: str, count_tokens: CountTokens | None
) -> RequestTimes:
    """Return the times of a streamed answer; raise `ServerError` in one line if it is not one."""
    where = f"{url}: model {model!r}"
    if answer.status and answer.status != 200:
        raise ServerError(
            f"{where}: the server answered {answer.status} ({_error_text(answer.body)}); its fields"
            " come from --endpoint and --extra-body, the name from --name or --student-name"
        )
    if answer.pieces and "text/event-stream" not in answer.content_type:
        raise ServerError(f"{where}: {_not_a_stream(answer)}")
    times: list[int] = []
    texts: list[str] = []
    usage: dict[str, Any] = {}
    for stamp, data in server_sent_events(answer.pieces):
        if data == "[DONE]":
            continue
        value = _read_event(data, where)
        usage = _object(value.get("usage"), where) or usage
        text = _text(value, where)
        if text:
            times.append(stamp)
            texts.append(text)
    if answer.failure:
        raise ServerError(
            f"{where}: {answer.failure} after {len(times)} pieces of text; see the server's log"
        )
    if not times:
        raise ServerError(
            f"{where}: the stream ended without a token; the model may stop at once (send "
            "ignore_eos or min_tokens by --extra-body), or the server streams another format"
        )
    tokens, counted_by = _count(texts, usage, count_tokens)
    prompt = usage.get("prompt_tokens")
    prompt = prompt if isinstance(prompt, int) else None
    return RequestTimes(answer.sent_ns, tuple(times), tokens, prompt, counted_by)


def _count(
    texts: list[str], usage: dict[str, Any], count_tokens: CountTokens | None
) -> tuple[int, str]:
    reported = usage.get("completion_tokens")
    if isinstance(reported, int) and reported > 0:
        return reported, "usage"
    if count_tokens is not None:
        return max(1, count_tokens("".join(texts))), "tokenizer"
    return len(texts), "pieces"


def _read_event(data: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ServerError(
            f"{where}: an event is not a JSON object ({data[:60]!r}); is this an OpenAI-compatible "
            "server?"
        )
    if "error" in value:
        raise ServerError(f"{where}: the server broke off with {_error_text(data.encode())}")
    return value


def _text(value: dict[str, Any], where: str) -> str:
    """Return the text of an event, of ``/completions`` or ``/chat/completions``."""
    choices = value.get("choices") or [{}]
    if not isinstance(choices, list):
        raise ServerError(_misshapen(choices, where))
    choice = _object(choices[0], where)
    delta = _object(choice.get("delta"), where)
    found = [choice.get("text"), *(delta.get(name) for name in _DELTAS)]
    text = next(filter(None, found), "")
    if not isinstance(text, str):
        raise ServerError(_misshapen(text, where))
    return text


def _object(value: Any, where: str) -> dict[str, Any]:
    """Return a part of an event that is an object or null."""
    if value is not None and not isinstance(value, dict):
        raise ServerError(_misshapen(value, where))
    return value or {}


def _misshapen(value: Any, where: str) -> str:
    return f"{where}: an event holds {str(value)[:60]!r} where OpenAI's API has something else"


def _not_a_stream(answer: Answer) -> str:
    try:
        whole = "choices" in json.loads(answer.body)
    except ValueError:
        whole = False
    if whole:
        return (
            "the server does not stream: it answered at once, so there are no times per token; "
            "turn streaming on, or measure another server"
        )
    return (
        f"answered {answer.content_type or 'nothing known'!r} where server-sent events are due; "
        "the URL must be that of an OpenAI-compatible API, such as http://host:8000/v1"
    )


def _error_text(body: bytes) -> str:
    """Return what an error's body says, in at most a line."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    return " ".join(str(value).split())[:200] or "no reason given"
