"""Choices between whole sentences: minimal pairs and facts.

A sentence is scored as log P(sentence | ``<s>``), summed over all its tokens; the end of a document
is no part of it. The sentence with the highest sum is the model's choice, and equal sums share it.

* A minimal pair is ``{"phenomenon": …, "good": sentence, "bad": sentence}``.
* A fact is ``{"relation": …, "prompt": …, "answer": …, "candidates": […], "suffix": …}``; its
  sentences are prompt + candidate + suffix, and ``suffix`` may be left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nemo_bielik.data.text import Progress, read_records
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import DataError


class Scorer(Protocol):
    """A model that gives sequences of tokens their log-probabilities, whatever runs it."""

    def log_probs(
        self, groups: Sequence[Sequence[list[int]]], progress: Progress | None = None
    ) -> list[list[float]]:
        """Return Σ log P(token | those before it) of each sequence of each group, in nats.

        The sum is over all tokens but the first; `progress` is called with sequences done.
        """


@dataclass(frozen=True)
class Choice:
    """Sentences to choose from; `right` is the place of the right one, `group` what it tests.

    `where` names the file and line; `labels` are what distinguishes the sentences in a report.
    """

    where: str
    group: str
    sentences: tuple[str, ...]
    labels: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class ChoiceScore:
    """A choice with the log-probability of each sentence in nats, and its score from 0 to 1."""

    choice: Choice
    log_probs: tuple[float, ...]

    @property
    def score(self) -> float:
        """1 / k if the right sentence is among the k best, else 0."""
        best = max(self.log_probs)
        if self.log_probs[self.choice.right] < best:
            return 0.0
        return 1.0 / self.log_probs.count(best)


def read_minimal_pairs(path: Path) -> list[Choice]:
    """Read minimal pairs; raise `DataError` naming the line that is not one."""
    pairs = []
    for where, record in read_records(path):
        phenomenon, good, bad = (_string(record, key, where) for key in _PAIR_KEYS)
        if good == bad:
            raise DataError(f'{where}: "good" and "bad" are the same sentence; they must differ')
        pairs.append(Choice(where, phenomenon, (good, bad), ("good", "bad"), right=0))
    return _not_empty(pairs, path)


def read_facts(path: Path) -> list[Choice]:
    """Read facts; raise `DataError` naming the line that is not one."""
    facts = []
    for where, record in read_records(path):
        relation, prompt, answer = (_string(record, key, where) for key in _FACT_KEYS)
        suffix = _string(record, "suffix", where) if record.get("suffix") else ""
        candidates = _candidates(record, answer, where)
        sentences = tuple(prompt + candidate + suffix for candidate in candidates)
        right = candidates.index(answer)
        facts.append(Choice(where, relation, sentences, candidates, right))
    return _not_empty(facts, path)


def score_choices(
    model: Scorer,
    tokenizer: TextTokenizer,
    choices: Sequence[Choice],
    max_tokens: int,
    progress: Progress | None = None,
) -> list[ChoiceScore]:
    """Score every sentence of every choice; `progress` counts sentences.

    Raises `DataError` for a sentence that is longer than `max_tokens`.
    """
    groups = encode_choices(tokenizer, choices, max_tokens)
    sums = model.log_probs(groups, progress)
    return [ChoiceScore(choice, tuple(own)) for choice, own in zip(choices, sums, strict=True)]


def encode_choices(
    tokenizer: TextTokenizer, choices: Sequence[Choice], max_tokens: int
) -> list[list[list[int]]]:
    """Return the token ids of every sentence of every choice, each opened by ``<s>``.

    Raises `DataError` for a sentence that is longer than `max_tokens`.
    """
    sentences = [sentence for choice in choices for sentence in choice.sentences]
    encoded = iter([tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch(sentences))
    groups = [[next(encoded) for _ in choice.sentences] for choice in choices]
    for choice, group in zip(choices, groups, strict=True):
        longest = max(map(len, group))
        if longest > max_tokens:
            raise DataError(
                f"{choice.where}: a sentence has {longest} tokens, more than sequence_length "
                f"({max_tokens}); raise it or shorten the sentence"
            )
    return groups


def accuracy(scores: Sequence[ChoiceScore]) -> float:
    """Return the mean score, every item counting once."""
    return sum(score.score for score in scores) / len(scores)


def chance(scores: Sequence[ChoiceScore]) -> float:
    """Return the accuracy of guessing."""
    return sum(1 / len(score.choice.sentences) for score in scores) / len(scores)


def by_group(scores: Iterable[ChoiceScore]) -> dict[str, dict[str, Any]]:
    """Return ``{group: {"accuracy", "items"}}``, in alphabetical order."""
    groups: dict[str, list[ChoiceScore]] = {}
    for score in scores:
        groups.setdefault(score.choice.group, []).append(score)
    return {
        name: {"accuracy": accuracy(members), "items": len(members)}
        for name, members in sorted(groups.items())
    }


_PAIR_KEYS = ("phenomenon", "good", "bad")
_FACT_KEYS = ("relation", "prompt", "answer")


def _string(record: dict[str, Any], key: str, where: str) -> str:
    value = record.get(key)
    if not isinstance(value, str) or not value.strip():
        given = "missing" if key not in record else repr(value)
        raise DataError(f'{where}: "{key}" is {given}; it must be a string that is not empty')
    return value


def _candidates(record: dict[str, Any], answer: str, where: str) -> tuple[str, ...]:
    found = record.get("candidates")
    if not isinstance(found, list) or not all(isinstance(item, str) and item for item in found):
        raise DataError(f'{where}: "candidates" must be a list of strings that are not empty')
    if len(set(found)) < max(2, len(found)):
        raise DataError(f'{where}: "candidates" must be two or more, each different')
    if answer not in found:
        raise DataError(f"{where}: the answer {answer!r} is not among the candidates; add it")
    return tuple(found)


def _not_empty(choices: list[Choice], path: Path) -> list[Choice]:
    if not choices:
        raise DataError(f"{path}: holds no items; give a file that is not empty")
    return choices
