"""What a JSON line of a conversation or of a preference pair holds, and when it cannot be used.

A conversation is ``{"messages": [{"role": "user", "content": "…"}, …]}``; a pair is ``{"prompt":
…, "chosen": …, "rejected": …}``, where the prompt is text or messages and an answer is text, a
message or messages. Both may have ``"tools"`` and a ``"weight"``.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.data.text import parse_record, read_lines
from nemo_bielik.errors import DataError

#: What a file of text holds.
Kind = Literal["texts", "conversations", "preference pairs", "tasks"]
Messages = list[dict[str, Any]]

_KINDS: dict[str, Kind] = {
    "chosen": "preference pairs",
    "rejected": "preference pairs",
    "messages": "conversations",
    "text": "texts",
    "reward": "tasks",
}
ROLES = ("system", "user", "assistant", "tool")
_LINES_TO_LOOK_AT = 100
#: Weights are kept in float32.
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38


class Refused(Exception):
    """A line that cannot be trained on: a reason to count it by, and particulars."""

    def __init__(self, reason: str, particulars: str = "") -> None:
        super().__init__(f"{reason} ({particulars})" if particulars else reason)
        self.reason = reason


@dataclass(frozen=True)
class Conversation:
    """What was said, the tools that could be called, and how much the example counts."""

    messages: Messages
    tools: list[dict[str, Any]] | None
    weight: float


@dataclass(frozen=True)
class Pair:
    """A prompt with the preferred and the other answer."""

    prompt: Messages
    chosen: Messages
    rejected: Messages
    tools: list[dict[str, Any]] | None
    weight: float


def kind_of(path: Path) -> Kind:
    """Return what a file holds, by the first JSON object of a ``.jsonl(.gz)`` that tells."""
    if not path.name.removesuffix(".gz").endswith(".jsonl") or not path.is_file():
        return "texts"
    for _, (where, line) in zip(range(_LINES_TO_LOOK_AT), read_lines(path), strict=False):
        with contextlib.suppress(DataError):
            record = parse_record(where, line)
            told = next((kind for name, kind in _KINDS.items() if name in record), None)
            if told:
                return told
    return "texts"


def read_conversation(line: str) -> Conversation:
    """Return the conversation of one JSON line; raise `Refused` if it is none."""
    record = _record(line)
    messages = _messages(record.get("messages"), '"messages"')
    answers = {n: m for n, m in enumerate(messages, start=1) if m["role"] == "assistant"}
    if not answers:
        raise Refused("no assistant turn")
    for number, message in answers.items():
        if _says_nothing(message):
            raise Refused("an empty answer", f"message {number}")
    return Conversation(messages, _tools(record), _weight(record))


def read_pair(line: str) -> Pair:
    """Return the preference pair of one JSON line; raise `Refused` if it is none."""
    record = _record(line)
    prompt = record.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    prompt = _messages(prompt, '"prompt"')
    if prompt[-1]["role"] == "assistant":
        raise Refused("the prompt ends with the assistant's turn")
    chosen, rejected = (_answer(record, name) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise Refused("the two answers are equal")
    return Pair(prompt, chosen, rejected, _tools(record), _weight(record))


def _record(line: str) -> dict[str, Any]:
    try:
        return parse_record("", line)
    except DataError as error:
        raise Refused("not a JSON object", str(error).strip()) from None


def _answer(record: dict[str, Any], name: str) -> Messages:
    given = record.get(name)
    if isinstance(given, str):
        given = {"role": "assistant", "content": given}
    messages = _messages([given] if isinstance(given, dict) else given, f'"{name}"')
    if messages[0]["role"] != "assistant":
        raise Refused("an answer that is not the assistant's", f'"{name}"')
    if all(map(_says_nothing, messages)):
        raise Refused("an empty answer", f'"{name}"')
    return messages


def _says_nothing(message: dict[str, Any]) -> bool:
    return not message.get("tool_calls") and not (message["content"] or "").strip()


def _messages(given: Any, name: str) -> Messages:
    if not isinstance(given, list) or not all(isinstance(m, dict) for m in given):
        raise Refused(f"no list {name} of objects")
    if not given:
        raise Refused("no message")
    for number, message in enumerate(given, start=1):
        _check_message(number, message)
    return given


def _check_message(number: int, message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise Refused("unknown role", f"message {number}: {role!r}; known are {', '.join(ROLES)}")
    calls = role == "assistant" and message.get("tool_calls")
    if not isinstance(content, str) and not (content is None and calls):
        raise Refused("no content", f"message {number}: content must be text")


def _tools(record: dict[str, Any]) -> list[dict[str, Any]] | None:
    tools = record.get("tools")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
    ):
        raise Refused('"tools" is not a list of objects')
    return tools or None


def _weight(record: dict[str, Any]) -> float:
    given = record.get("weight", 1.0)
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if not number or not given > 0:
        raise Refused('"weight" is not a number above 0', repr(given))
    if not _SMALLEST <= given <= _LARGEST:
        raise Refused(
            '"weight" is beyond float32', f"allowed are {_SMALLEST:.2g} to {_LARGEST:.2g}"
        )
    return float(given)
