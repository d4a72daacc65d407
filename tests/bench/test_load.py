"""A real server in another process: what the client measures is what the server wrote down."""

import asyncio
import json
import urllib.request
from dataclasses import replace
from typing import Any

import pytest

from nemo_bielik.bench.connection import Address
from nemo_bielik.bench.load import Endpoint, Round, run_round
from nemo_bielik.errors import ServerError


def record(endpoint: Endpoint) -> list[dict[str, Any]]:
    """Return what the stub wrote down of the requests to its model, in order of arrival."""
    url = f"http://127.0.0.1:{endpoint.address.port}/record"
    with urllib.request.urlopen(url, timeout=20) as answer:
        return [one for one in json.load(answer) if one["model"] == endpoint.model]


def run(endpoint: Endpoint, requests: int, lanes: int, tokens: int = 6) -> Round:
    bodies = [endpoint.body(f"prompt {n}", tokens) for n in range(requests)]
    return asyncio.run(run_round(endpoint, bodies, lanes, 0.05, 20.0))


def test_times_lie_where_the_servers_record_puts_them(endpoint: Endpoint) -> None:
    """True on the busiest machine: no byte comes before it is sent, or in another order."""
    before = len(record(endpoint))
    found = run(endpoint, requests=24, lanes=8)
    served = record(endpoint)[before:]
    assert found.failure == "" and len(found.requests) == len(served) == 24
    for request in found.requests:
        # the stub's record of this request: the last that arrived before its first text came …
        own = [
            one
            for one in served
            if request.sent_ns <= one["arrival"]
            and one["sent"][-1] <= request.text_ns[-1]
            and all(s <= t for s, t in zip(one["sent"], request.text_ns, strict=True))
        ]
        assert own, "no request of the server's record can have been this one"
        assert request.output_tokens == 6 and request.counted_by == "usage"
        assert list(request.text_ns) == sorted(request.text_ns)
    # … so, all taken together, the client can only be later than the server, never earlier
    for rank in range(6):
        sent = sorted(one["sent"][rank] for one in served)
        came = sorted(request.text_ns[rank] for request in found.requests)
        assert all(s <= c for s, c in zip(sent, came, strict=True))


def test_no_more_than_the_lanes_are_under_way(endpoint: Endpoint) -> None:
    before = len(record(endpoint))
    run(endpoint, requests=12, lanes=3)
    edges = [(one["arrival"], 1) for one in record(endpoint)[before:]]
    edges += [(one["sent"][-1], -1) for one in record(endpoint)[before:]]
    under_way, most = 0, 0
    for _, step in sorted(edges):
        under_way += step
        most = max(most, under_way)
    assert most == 3


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("no-stream", "does not stream"),
        ("error", r"answered 500 \(out of memory\)"),
        ("no-sse", "where server-sent events are due"),
        ("empty", "ended without a token"),
        ("absent", "answered 404 .*does not exist"),
    ],
)
def test_a_server_out_of_form_ends_the_round_with_one_line(
    endpoint: Endpoint, model: str, line: str
) -> None:
    found = run(replace(endpoint, model=model), requests=4, lanes=2)
    assert found.requests == []
    with pytest.raises(ServerError, match=line):
        raise ServerError(found.failure)


def test_what_was_answered_before_a_server_died_is_kept(endpoint: Endpoint) -> None:
    found = run(replace(endpoint, model="dies"), requests=6, lanes=1)
    assert "closed the connection after 2 pieces of text" in found.failure
    assert [request.output_tokens for request in found.requests] == [6, 6]


def test_pieces_are_counted_where_no_usage_is_reported(endpoint: Endpoint) -> None:
    found = run(replace(endpoint, model="no-usage"), requests=2, lanes=1)
    assert [(r.output_tokens, r.counted_by) for r in found.requests] == [(6, "pieces")] * 2


def test_a_wrong_name_is_found_before_any_request(endpoint: Endpoint) -> None:
    with pytest.raises(ServerError, match=r"serves no model 'stab' \(did you mean 'stub'\?\)"):
        asyncio.run(replace(endpoint, model="stab").check_name())
    asyncio.run(endpoint.check_name())


def test_chat_requests_carry_messages_and_the_given_fields(stub_url: str) -> None:
    chat = Endpoint(Address.parse(stub_url), "stub", kind="chat", extra={"top_k": 3})
    body = json.loads(chat.body("Dzień dobry", 7))
    assert body["messages"] == [{"role": "user", "content": "Dzień dobry"}]
    assert (body["max_tokens"], body["top_k"], body["stream"]) == (7, 3, True)
    assert run(chat, requests=1, lanes=1).requests[0].output_tokens == 6
