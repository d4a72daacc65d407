"""Documents and scores of the question-answering tasks: PolQA and PoQuAD.

An answer is accepted by the rule of PolEval 2021's question-answering task, which PolQA's authors
set: numbers must be equal; of other answers the edit distance to a right one, in lower case, must
be less than half of that one's length. Ours is what becomes of words with numbers ("w 1410 roku"):
the number alone is right, and other words must hold the same numbers, or a date would stand for
every other one in its month.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from nltk.metrics.distance import edit_distance

_NUMBER = re.compile(r"-?\d+(?:[., ]\d+)*")

Document = dict[str, Any]


def accept(doc: Document, results: list[str]) -> dict[str, float]:
    """Return ``{"accepted": 1 or 0}`` for the one answer in `results`."""
    return {"accepted": float(any(is_right(results[0], gold) for gold in doc["accepted_answers"]))}


def is_right(answer: str, gold: str) -> bool:
    """Return whether `answer` counts as `gold`."""
    answer, gold = answer.strip().rstrip(".").lower(), gold.strip().lower()
    wanted, given = _numbers(gold), _numbers(answer)
    if _NUMBER.fullmatch(gold) or (_NUMBER.fullmatch(answer) and len(wanted) == 1):
        return given[:1] == wanted
    return set(wanted) <= set(given) and bool(edit_distance(answer, gold) < len(gold) / 2)


def distinct_passages(dataset: Dataset) -> Dataset:
    """Keep the first of all rows with the same question and passage."""
    return dataset.filter(_first_of("question", "passage_text"))


def relevant_passages(dataset: Dataset) -> Dataset:
    """Keep the passages that hold the answer, each question and passage once."""
    relevant = dataset.filter(_is_relevant).filter(_first_of("question", "passage_text"))
    return relevant.map(_with_polqa_answers)


def distinct_questions(dataset: Dataset) -> Dataset:
    """Keep every question once."""
    return dataset.filter(_is_relevant).filter(_first_of("question")).map(_with_polqa_answers)


def answerable(dataset: Dataset) -> Dataset:
    """Keep PoQuAD's questions that the passage answers."""
    kept = dataset.filter(lambda doc: not doc["is_impossible"] and doc["answers"]["text"])
    return kept.map(lambda doc: {"accepted_answers": list(doc["answers"]["text"])})


def _numbers(text: str) -> list[float]:
    return [_value(found.group()) for found in _NUMBER.finditer(text)]


def _value(number: str) -> float:
    digits = number.replace(" ", "").replace(",", ".")
    whole, _, rest = digits.rpartition(".") if digits.count(".") > 1 else ("", "", digits)
    return float(whole.replace(".", "") + rest)


def _is_relevant(doc: Document) -> bool:
    return str(doc["relevant"]).lower() in ("true", "1")


def _with_polqa_answers(doc: Document) -> Document:
    answers = doc["answers"]  # a Python list, written out as text
    found = ast.literal_eval(answers) if isinstance(answers, str) else answers
    return {"accepted_answers": [str(answer) for answer in found]}


def _first_of(*columns: str) -> Callable[[Document], bool]:
    seen: set[tuple[str, ...]] = set()

    def is_first(doc: Document) -> bool:
        key = tuple(doc[column] for column in columns)
        if key in seen:
            return False
        seen.add(key)
        return True

    return is_first
