"""Verifiable tasks: JSON lines of a prompt and of what a reward needs to judge an answer.

``{"prompt": "Ile to jest 2 + 2?", "answer": "4", "reward": "math", "kind": "arithmetic"}``; the
prompt may also be a list of messages that ends with the user's. `rewards/catalog.py` is the table
of rewards; every task is tried on its own answer before it is used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.align.rewards.catalog import Reward, find_reward
from nemo_bielik.align.rewards.grading import Answer, Grader
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.conversations import ROLES
from nemo_bielik.data.text import parse_record, read_lines
from nemo_bielik.errors import DataError
from nemo_bielik.progress import progress


@dataclass(frozen=True)
class VerifiableTask:
    """One line: `place` tells where it stands, `fields` is all of it, `tokens` its prompt's."""

    place: str
    fields: Mapping[str, Any]
    messages: list[dict[str, Any]]
    tokens: list[int]

    @property
    def kind(self) -> str:
        """What its rewards are averaged with; the reward's name where the line says nothing."""
        return str(self.fields.get("kind", self.fields["reward"]))


@dataclass
class TaskFile:
    """The tasks that were read and, by reason, how many were not and the first of them."""

    tasks: list[VerifiableTask] = field(default_factory=list)
    skipped: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def rewards(self) -> list[str]:
        """The names of the rewards that judge them."""
        return sorted({str(task.fields["reward"]) for task in self.tasks})

    @property
    def skipped_counts(self) -> dict[str, int]:
        """How many were skipped, by reason."""
        return {reason: count for reason, (count, _) in self.skipped.items()}


@dataclass(frozen=True)
class TaskReader:
    """How lines become tasks: `longest` is what a prompt may have in tokens."""

    tokenizer: ChatTokenizer
    rewards: Mapping[str, Reward]
    longest: int
    skip: bool

    def read(self, paths: Sequence[Path]) -> TaskFile:
        """Read the tasks of all `paths`, in order.

        Raises `DataError` naming file and line for one that cannot be used (or counts it, where
        `skip`), and for files without a usable one.
        """
        found = TaskFile()
        for path in paths:
            for place, line in read_lines(path):
                try:
                    found.tasks.append(self._task(place, line))
                except ValueError as error:
                    self._refuse(found, place, *_reason_and_particulars(error))
        return _not_empty(found, paths)

    def try_own_answers(self, found: TaskFile, paths: Sequence[Path], grader: Grader) -> None:
        """Refuse the tasks whose own answer does not earn 1, as `read` does the malformed ones."""
        tried, found.tasks = found.tasks, []
        for task in progress(tried, desc="tasks", unit="task"):
            text = self.rewards[task.fields["reward"]].example(task.fields)
            if text is None or grader.grade([Answer(text)], [task.fields], [task.place]) == [1]:
                found.tasks.append(task)
            else:
                self._refuse(found, task.place, "its own answer earns no reward", repr(text))
        _not_empty(found, paths)

    def _task(self, place: str, line: str) -> VerifiableTask:
        try:
            fields = parse_record("", line)
        except DataError as error:
            raise ValueError(f"not a JSON object: {str(error).strip()}") from None
        messages = _messages(fields.get("prompt"))
        for message in messages:
            spelt = self.tokenizer.special.search(message["content"])
            if spelt:
                raise ValueError(f"a special token spelt out in its prompt: {spelt.group()!r}")
        find_reward(fields.get("reward"), dict(self.rewards)).check(fields)
        tokens = self._tokens(messages)
        if len(tokens) > self.longest:
            raise ValueError(
                f"a prompt longer than the context: {len(tokens)} tokens, with the answer at most "
                f"{self.longest} fit"
            )
        return VerifiableTask(place, fields, messages, tokens)

    def _tokens(self, messages: list[dict[str, Any]]) -> list[int]:
        try:
            ids = self.tokenizer.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        except Exception as error:  # a template raises whatever it likes
            reason = (str(error) or type(error).__name__).partition("\n")[0]
            raise ValueError(f"refused by the chat template: {reason}") from None
        return list(ids)

    def _refuse(self, found: TaskFile, place: str, reason: str, particulars: str = "") -> None:
        message = f"{place}: {reason}" + (f" ({particulars})" if particulars else "")
        if not self.skip:
            raise DataError(f"{message}; mend it, or leave such tasks out with malformed=skip")
        count, example = found.skipped.get(reason, (0, message))
        found.skipped[reason] = count + 1, example


def _not_empty(found: TaskFile, paths: Sequence[Path]) -> TaskFile:
    if not found.tasks:
        first = "".join(f"; {example}" for _, example in found.skipped.values())
        raise DataError(f"{', '.join(map(str, paths))}: no task that can be used{first}")
    return found


def _messages(prompt: object) -> list[dict[str, Any]]:
    """Return the prompt as messages; raise `ValueError` unless a user asks something at its end."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not messages:
        raise ValueError('"prompt" must be a text or a list of messages')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError('"prompt" must be a text or a list of messages')
        if message.get("role") not in ROLES:
            raise ValueError(f"unknown role: {message.get('role')!r}; known are {', '.join(ROLES)}")
    if messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise ValueError("no question: the last message must be the user's, and not empty")
    return messages


def _reason_and_particulars(error: ValueError) -> tuple[str, str]:
    reason, _, particulars = str(error).partition(": ")
    return reason, particulars
