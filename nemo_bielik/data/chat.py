"""Conversations to tokens, with the loss on what the assistant says and on nothing else.

A conversation is a JSON line ``{"messages": [{"role": "user", "content": "…"}, …]}``, optionally
with ``"tools"``; the tokenizer's own chat template turns it into text. What the assistant says is
known from the template's ``{% generation %}`` markers. Where it has none, from what a message adds:
everything between the prompt of its turn (with the generation prompt) and the end of its turn.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.indexed import Block
from nemo_bielik.data.text import parse_record, read_lines
from nemo_bielik.data.tokenizer import load_tokenizer
from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.files import value_sha256

ROLES = ("system", "user", "assistant", "tool")
_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
_LINES_TO_LOOK_AT = 100

Span = tuple[int, int]


class Refused(Exception):
    """A conversation that cannot be trained on: a reason to count it by, and particulars."""

    def __init__(self, reason: str, particulars: str = "") -> None:
        super().__init__(f"{reason} ({particulars})" if particulars else reason)
        self.reason = reason


def holds_conversations(path: Path) -> bool:
    """Whether the first JSON object of a ``.jsonl`` or ``.jsonl.gz`` file has messages."""
    if not path.name.removesuffix(".gz").endswith(".jsonl") or not path.is_file():
        return False
    for _, (where, line) in zip(range(_LINES_TO_LOOK_AT), read_lines(path), strict=False):
        try:
            return "messages" in parse_record(where, line)
        except DataError:
            continue
    return False


def read_conversation(line: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Return the messages and tools of one JSON line; raise `Refused` if it is no conversation."""
    try:
        record = parse_record("", line)
    except DataError as error:
        raise Refused("not a JSON object", str(error).strip()) from None
    messages, tools = record.get("messages"), record.get("tools")
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refused('no list "messages" of objects')
    if not messages:
        raise Refused("no message")
    for number, message in enumerate(messages, start=1):
        _check_message(number, message)
    if all(message["role"] != "assistant" for message in messages):
        raise Refused("no assistant turn")
    if tools is not None and not (
        isinstance(tools, list) and all(isinstance(t, dict) for t in tools)
    ):
        raise Refused('"tools" is not a list of objects')
    return messages, tools or None


def _check_message(number: int, message: dict[str, Any]) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise Refused("unknown role", f"message {number}: {role!r}; known are {', '.join(ROLES)}")
    calls = role == "assistant" and message.get("tool_calls")
    if not isinstance(content, str) and not (content is None and calls):
        raise Refused("no content", f"message {number}: content must be text")


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with a chat template; `special` finds its special tokens in a text."""

    tokenizer: Any
    special: "re.Pattern[str]"
    directory: Path

    @classmethod
    def open(cls, directory: Path) -> "ChatTokenizer":
        """Read a tokenizer; raise `CheckpointError` if it cannot be read or has no template."""
        tokenizer = load_tokenizer(directory)
        if not tokenizer.chat_template:
            raise CheckpointError(
                f"{directory}: its tokenizer has no chat template; add chat_template.jinja beside "
                "tokenizer.json, or use an instruction-tuned model's tokenizer"
            )
        tokens = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
        spelt = sorted((re.escape(token.content) for token in tokens), key=len, reverse=True)
        return cls(tokenizer, re.compile("|".join(spelt) or r"(?!)"), directory)

    @property
    def template_fingerprint(self) -> str:
        """The SHA-256 of the chat template."""
        return value_sha256(self.tokenizer.chat_template)

    def encode(self, line: str, where: str) -> tuple[list[int], NDArray[np.uint8]]:
        """Return the ids of one JSON line's conversation and 1 where they are learned, [tokens].

        Raises `Refused` for a conversation that cannot be used, and `CheckpointError` for a
        template that does not say which text is the assistant's.
        """
        messages, tools = read_conversation(line)
        for text in _texts([messages, tools]):
            self._check_text(text)
        text, spans = self._render(messages, tools, where)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        loss = covered(encoded["offset_mapping"], spans)
        if not loss.any():
            raise Refused("no token to learn", "the template marks none as the assistant's")
        return encoded["input_ids"], loss

    def _check_text(self, text: str) -> None:
        found = self.special.search(text)
        if found:
            raise Refused("a special token spelt out in its text", repr(found.group()))
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused("half a surrogate pair, which is not Unicode") from None

    def _render(self, messages: list[Any], tools: list[Any] | None, where: str) -> tuple[str, Any]:
        """Return the whole text and the (start, end) of what the assistant says in it."""
        if _MARKER.search(self.tokenizer.get_chat_template(tools=tools)):
            return self._rendered(messages, tools, marked=True)
        whole, _ = self._rendered(messages, tools)
        spans = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, _ = self._rendered(messages[:number], tools, prompt=True)
            turn, _ = self._rendered(messages[: number + 1], tools)
            if not (whole.startswith(turn) and turn.startswith(prompt)):
                raise CheckpointError(
                    f"{self.directory}: its chat template writes the first {number + 1} messages "
                    f"of {where} otherwise than in the whole conversation, so the assistant's part "
                    "cannot be found; mark it with {% generation %} … {% endgeneration %}"
                )
            spans.append(self._up_to_end_of_turn(whole, len(prompt), len(turn)))
        return whole, spans

    def _rendered(
        self,
        messages: list[Any],
        tools: list[Any] | None,
        prompt: bool = False,
        marked: bool = False,
    ) -> tuple[str, list[Span]]:
        # transformers' own mask, made from these spans, runs to the end of the conversation where
        # the last character of a span is white space that no token's offsets cover
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=self.tokenizer.get_chat_template(tools=tools),
                return_assistant_tokens_mask=marked,
                add_generation_prompt=prompt,
                **self.tokenizer.special_tokens_map,
            )
        except Exception as error:  # a template raises whatever it likes
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            raise Refused("refused by the chat template", reason) from None
        return texts[0], spans[0] if spans else []

    def _up_to_end_of_turn(self, text: str, start: int, end: int) -> Span:
        """Leave out white space after the token that ends a turn: nobody generates past that."""
        last = 0
        for found in self.special.finditer(text, start, end):
            last = found.end()
        return start, last if last and not text[last:end].strip() else end


def covered(offsets: list[Span], spans: list[Span]) -> NDArray[np.uint8]:
    """Return 1 for every token that holds a character of one of `spans`, [tokens].

    A token without characters of its own (trimmed white space) counts by where it stands.
    """
    places = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    starts, ends = places[:, 0], np.maximum(places[:, 1], places[:, 0] + 1)
    loss = np.zeros(len(places), np.uint8)
    for start, end in spans:
        loss[(starts < end) & (ends > start)] = 1
    return loss


def encode_conversations(
    tokenizer: ChatTokenizer, lines: list[tuple[str, str]], skip: bool
) -> Block:
    """Return the conversations of (``"FILE: line N"``, JSON line) pairs.

    One that cannot be used raises `DataError`, or is counted in the block if `skip`.
    """
    ids: list[list[int]] = []
    losses: list[NDArray[np.uint8]] = [np.empty(0, np.uint8)]
    skipped: dict[str, tuple[int, str]] = {}
    for where, line in lines:
        try:
            found, loss = tokenizer.encode(line, where)
        except Refused as reason:
            if not skip:
                raise DataError(
                    f"{where}: {reason}; mend it, or leave such conversations out with "
                    "malformed=skip"
                ) from None
            count, example = skipped.get(reason.reason, (0, f"{where}: {reason}"))
            skipped[reason.reason] = count + 1, example
            continue
        ids.append(found)
        losses.append(loss)
    lengths = np.array([len(document) for document in ids], dtype=np.int32)
    flat = itertools.chain.from_iterable(ids)
    return Block(
        tokens=np.fromiter(flat, np.int32, int(lengths.sum())),
        lengths=lengths,
        num_bytes=sum(len(line.encode("utf-8")) for _, line in lines),
        loss=np.concatenate(losses),
        skipped=skipped,
    )


def _texts(value: Any) -> Iterator[str]:
    """Yield every text within a JSON value, names of fields too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
