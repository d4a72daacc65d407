"""Events and the one line of each way to answer out of form."""

import json
from typing import Any

import pytest

from nemo_bielik.bench.answers import read_answer, server_sent_events
from nemo_bielik.bench.connection import Answer
from nemo_bielik.errors import ServerError


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def answer(*pieces: bytes, **changes: Any) -> Answer:
    stamped = [((number + 1) * 100, piece) for number, piece in enumerate(pieces)]
    return Answer(50, 200, "text/event-stream; charset=utf-8", stamped, **changes)


def text(words: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": words}]}


def delta(words: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": words}}]}


def read(found: Answer, count_tokens: Any = None) -> Any:
    return read_answer(found, "http://h/v1", "m", count_tokens)


def test_events_have_the_time_of_the_block_that_completes_them() -> None:
    pieces = [(1, b"data: a\n\ndata: b"), (2, b"\n"), (3, b"\n: ping\n\ndata: c\r\n\r\ndata: d")]
    assert list(server_sent_events(pieces)) == [(1, "a"), (3, "b"), (3, "c")]


@pytest.mark.parametrize("make", [text, delta])
def test_times_of_text_and_the_servers_own_count(make: Any) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    found = read(
        answer(
            event(make("")), event(make("a")), event(make(" b")), event(usage), b"data: [DONE]\n\n"
        )
    )
    assert found.text_ns == (200, 300)  # an empty text is no token's
    assert (found.sent_ns, found.output_tokens, found.prompt_tokens) == (50, 3, 7)
    assert found.counted_by == "usage"


def test_thoughts_before_an_answer_are_text_and_a_count_in_words_is_none() -> None:
    thought = {"choices": [{"delta": {"content": None, "reasoning": "hm"}}]}
    usage = {"usage": {"prompt_tokens": "12", "completion_tokens": 2}}
    found = read(answer(event(thought), event(delta("a")), event(usage)))
    assert (found.text_ns, found.output_tokens, found.prompt_tokens) == ((100, 200), 2, None)


def test_without_usage_the_tokenizer_counts_and_else_the_pieces() -> None:
    found = answer(event(text("ala")), event(text(" ma kota")))
    assert read(found, lambda words: len(words.split())).output_tokens == 3
    assert read(found, lambda words: len(words.split())).counted_by == "tokenizer"
    assert (read(found).output_tokens, read(found).counted_by) == (2, "pieces")


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            Answer(0, 404, "application/json", [(1, b'{"error": {"message": "no such model"}}')]),
            r"model 'm': the server answered 404 \(no such model\)",
        ),
        (
            Answer(0, 422, "application/json", [(1, b'{"detail": "Unexpected fields"}')]),
            r"answered 422 \(Unexpected fields\); its fields come from --endpoint and --extra-body",
        ),
        (Answer(0, 502, "text/html", [(1, b"<h1>Bad\nGateway</h1>")]), r"502 \(<h1>Bad Gateway"),
        (
            Answer(0, 200, "application/json", [(1, b'{"choices": [{"text": "a"}]}')]),
            "does not stream",
        ),
        (Answer(0, 200, "text/html", [(1, b"<html>")]), "'text/html' where server-sent events"),
        (answer(event(text(""))), "ended without a token"),
        (answer(b"data: [DONE]\n\n"), "ended without a token"),
        (answer(b"data: hello\n\n"), "not a JSON object"),
        (answer(event({"choices": "abc"})), "an event holds 'abc' where"),
        (answer(event({"choices": ["abc"]})), "an event holds 'abc' where"),
        (answer(event({"choices": [{"delta": "x"}]})), "an event holds 'x' where"),
        (answer(event({"choices": [{"text": 7}]})), "an event holds '7' where"),
        (answer(event({"usage": [1]})), r"an event holds '\[1\]' where"),
        (answer(event({"choices": [None]})), "ended without a token"),
        (answer(event({"error": {"message": "CUDA out of memory"}})), "CUDA out of memory"),
        (
            answer(event(text("a")), failure="the server closed the connection"),
            "the server closed the connection after 1 pieces of text",
        ),
    ],
)
def test_every_other_answer_is_one_line(found: Answer, line: str) -> None:
    with pytest.raises(ServerError, match=line) as caught:
        read(found)
    assert "\n" not in str(caught.value)
