"""Word models that know no grammar, to show what the minimal pairs and the fact cloze measure.

A unigram model scores exactly a half on the minimal pairs, which come in balanced twins, and
about one in ten on the facts.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nemo_bielik.errors import ConfigError, DataError

_WORD = re.compile(r"\w+|[^\w\s]")
_START = "."  # what precedes the first sentence: most follow a full stop
Scorer = Callable[[str], float]


def words_of(text: str) -> list[str]:
    """Split a text into words and punctuation marks."""
    return _WORD.findall(text)


class WordModel:
    """A unigram (order 1) or bigram (order 2) model of words with add-k smoothing."""

    def __init__(self, order: int, k: float = 0.1) -> None:
        if order not in (1, 2):
            raise ConfigError(f"order={order}: allowed are 1 and 2; choose one of them")
        if not k > 0:
            raise ConfigError(f"k={k}: allowed are numbers above 0; try 0.1")
        self.order, self.k = order, k
        self._counts: Counter[Any] = Counter()
        self._contexts: Counter[str] = Counter()
        self._vocabulary: set[str] = set()

    def fit(self, texts: Iterable[str]) -> "WordModel":
        """Count the words of the texts and return the model itself."""
        for text in texts:
            words = words_of(text)
            self._vocabulary.update(words)
            contexts = [_START, *words[:-1]] if self.order == 2 else [""] * len(words)
            self._counts.update(zip(contexts, words, strict=True))
            self._contexts.update(contexts)
        return self

    def score(self, sentence: str) -> float:
        """Compute the logarithm of the sentence's probability."""
        words = words_of(sentence)
        contexts = [_START, *words[:-1]] if self.order == 2 else [""] * len(words)
        return math.fsum(map(self._log_probability, contexts, words))

    def _log_probability(self, context: str, word: str) -> float:
        unseen = self.k * (len(self._vocabulary) + 1)
        count = self._counts[context, word] + self.k
        return math.log(count / (self._contexts[context] + unseen))


def score_minimal_pairs(score: Scorer, pairs: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """Give the accuracy by phenomenon; a pair scored equal counts a half."""
    credits: dict[str, list[float]] = {}
    for pair in pairs:
        credit = _credit(score(pair["good"]), [score(pair["bad"])])
        credits.setdefault(pair["phenomenon"], []).append(credit)
    return {phenomenon: math.fsum(found) / len(found) for phenomenon, found in credits.items()}


def score_facts(score: Scorer, items: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Give the accuracy by relation; an answer that ties with n others counts 1 / (n + 1)."""
    credits: dict[str, list[float]] = {}
    for item in items:
        scores = {
            candidate: score(item["prompt"] + candidate + item["suffix"])
            for candidate in item["candidates"]
        }
        credit = _credit(scores.pop(item["answer"]), list(scores.values()))
        credits.setdefault(item["relation"], []).append(credit)
    return {relation: math.fsum(found) / len(found) for relation, found in credits.items()}


def evaluate_baseline(directory: Path, order: int, k: float = 0.1) -> dict[str, Any]:
    """Train on ``train.jsonl`` of a written world and score its minimal pairs and facts.

    Returns ``minimal_pairs_accuracy``, ``fact_accuracy`` (means over phenomena and relations),
    ``by_phenomenon`` and ``by_relation``.
    """
    model = WordModel(order, k).fit(row["text"] for row in _read(directory / "train.jsonl"))
    by_phenomenon = score_minimal_pairs(model.score, _read(directory / "minimal_pairs.jsonl"))
    by_relation = score_facts(model.score, _read(directory / "facts.jsonl"))
    return {
        "minimal_pairs_accuracy": _mean(by_phenomenon),
        "fact_accuracy": _mean(by_relation),
        "by_phenomenon": by_phenomenon,
        "by_relation": by_relation,
    }


def _credit(right: float, wrong: list[float]) -> float:
    if any(other > right for other in wrong):
        return 0.0
    return 1 / (1 + wrong.count(right))


def _mean(by_group: Mapping[str, float]) -> float:
    return math.fsum(by_group.values()) / len(by_group)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; make the world with write_world first")
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)
