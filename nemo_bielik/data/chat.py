"""Conversations to tokens, with the loss on what the assistant says and on nothing else.

The tokenizer's own chat template turns messages into text. What the assistant says is known from
the template's ``{% generation %}`` markers. Where it has none, from what a message adds: everything
between the prompt of its turn (with the generation prompt) and the end of its turn.

A preference pair becomes two documents, the chosen answer's and the rejected one's, each with the
whole prompt; the loss lies on the answers alone, whatever the assistant said in the prompt.
"""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.data.conversations import (
    Kind,
    Messages,
    Refused,
    read_conversation,
    read_pair,
)
from nemo_bielik.data.generation import end_ids
from nemo_bielik.data.indexed import Block
from nemo_bielik.data.tokenizer import load_tokenizer
from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.files import value_sha256

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")

Span = tuple[int, int]
#: Ids and 1 where they are learned, both [tokens].
Document = tuple[list[int], NDArray[np.uint8]]


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with a chat template; `special` finds its special tokens in a text.

    `ends` are the ids that end an answer of the model beside it.
    """

    tokenizer: Any
    special: "re.Pattern[str]"
    directory: Path
    ends: list[int]

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
        special = re.compile("|".join(spelt) or r"(?!)")
        return cls(tokenizer, special, directory, end_ids(directory, tokenizer.eos_token_id))

    def up_to_end(self, ids: list[int]) -> list[int]:
        """Return the ids of a generated answer up to the first that ends it, that one included."""
        return ids[: next((n for n, token in enumerate(ids, start=1) if token in self.ends), None)]

    @property
    def template_fingerprint(self) -> str:
        """The SHA-256 of the chat template."""
        return value_sha256(self.tokenizer.chat_template)

    def encode(self, line: str, where: str, context: int = 0) -> tuple[list[Document], float]:
        """Return the document of one JSON line's conversation, and its weight.

        Raises `Refused` for a conversation that cannot be used (because its answer does not begin
        within `context` tokens, too, if that is above 0), and `CheckpointError` for a template that
        does not say which text is the assistant's.
        """
        found = read_conversation(line)
        self._check_texts([found.messages, found.tools])
        document = self._document(*self._render(found.messages, found.tools, where))
        _check_prompt(document, context)
        return [document], found.weight

    def encode_pair(self, line: str, where: str, context: int = 0) -> tuple[list[Document], float]:
        """Return the documents of the chosen and the rejected answer of one JSON line; its weight.

        Raises as `encode` does, and `Refused` for a pair that `context` tokens do not hold.
        """
        pair = read_pair(line)
        self._check_texts([pair.prompt, pair.chosen, pair.rejected, pair.tools])
        prompt, _ = self._rendered(pair.prompt, pair.tools, prompt=True)
        documents = []
        for answer in (pair.chosen, pair.rejected):
            text, spans = self._render([*pair.prompt, *answer], pair.tools, where)
            if not text.startswith(prompt):
                raise CheckpointError(
                    f"{self.directory}: its chat template writes the prompt of {where} otherwise "
                    "once an answer follows, so the answer cannot be told from it; use one whose "
                    "generation prompt is how an answer begins"
                )
            begin = len(prompt)
            answers = [(max(start, begin), end) for start, end in spans if end > begin]
            documents.append(self._document(text, answers))
            _check_prompt(documents[-1], context)
        if documents[0][0] == documents[1][0]:
            raise Refused("the two answers are equal")
        length = sum(len(ids) for ids, _ in documents)
        if 0 < context < length:
            raise Refused("pair longer than the context", f"{length:,} of {context:,} tokens")
        return documents, pair.weight

    def round_trip(self, line: str, kind: Kind) -> tuple[str, str]:
        """Return the text of one JSON line (a pair's chosen answer), and what its tokens say.

        Raises `Refused` as `encode` does.
        """
        if kind == "preference pairs":
            pair = read_pair(line)
            messages, tools = [*pair.prompt, *pair.chosen], pair.tools
        else:
            found = read_conversation(line)
            messages, tools = found.messages, found.tools
        self._check_texts([messages, tools])
        text, _ = self._rendered(messages, tools)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return text, self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def _document(self, text: str, spans: list[Span]) -> Document:
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        loss = covered(encoded["offset_mapping"], spans)
        if not loss.any():
            raise Refused("no token to learn", "the template marks none as the assistant's")
        return encoded["input_ids"], loss

    def _check_texts(self, value: Any) -> None:
        for text in _texts(value):
            self._check_text(text)

    def _check_text(self, text: str) -> None:
        found = self.special.search(text)
        if found:
            raise Refused("a special token spelt out in its text", repr(found.group()))
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise Refused("half a surrogate pair, which is not Unicode") from None

    def _render(self, messages: Messages, tools: list[Any] | None, where: str) -> tuple[str, Any]:
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


def encode_lines(
    tokenizer: ChatTokenizer,
    lines: list[tuple[str, str]],
    kind: Kind,
    skip: bool,
    context: int = 0,
) -> Block:
    """Return the documents of (``"FILE: line N"``, JSON line) pairs.

    A line that cannot be used raises `DataError`, or is counted in the block if `skip`.

    Args:
        kind: conversations, a document each, or preference pairs, two each.
        context: tokens that a conversation's prompt, or a whole pair, may have; 0: any number.
    """
    encode = tokenizer.encode_pair if kind == "preference pairs" else tokenizer.encode
    documents: list[Document] = []
    weights: list[float] = []
    skipped: dict[str, tuple[int, str]] = {}
    for where, line in lines:
        try:
            found, weight = encode(line, where, context)
        except (Refused, RecursionError) as error:
            reason = error if isinstance(error, Refused) else Refused("nested too deeply")
            if not skip:
                raise DataError(
                    f"{where}: {reason}; mend it, or leave such {kind} out with malformed=skip"
                ) from None
            count, example = skipped.get(reason.reason, (0, f"{where}: {reason}"))
            skipped[reason.reason] = count + 1, example
            continue
        documents += found
        weights += [weight] * len(found)
    lengths = np.array([len(ids) for ids, _ in documents], dtype=np.int32)
    flat = itertools.chain.from_iterable(ids for ids, _ in documents)
    return Block(
        tokens=np.fromiter(flat, np.int32, int(lengths.sum())),
        lengths=lengths,
        num_bytes=sum(len(line.encode("utf-8", "surrogateescape")) for _, line in lines),
        loss=np.concatenate([np.empty(0, np.uint8), *(loss for _, loss in documents)]),
        weights=np.array(weights, np.float32),
        skipped=skipped,
    )


def _check_prompt(document: Document, context: int) -> None:
    """Raise `Refused` unless a sequence of `context` tokens predicts something that is learned."""
    before = int(document[1].argmax())
    if 0 < context < before:
        raise Refused("prompt longer than the context", f"{before:,} of {context:,} tokens")


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
