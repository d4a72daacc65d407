"""Rewards of plain text: exact and normalised answers, multiple choice, form."""

import re
import string
import unicodedata

from nemo_bielik.align.rewards.answers import MARKUP, Task, clean, final_answer

_QUOTES = "\"'„”“«»‚’‘"
#: How regular expressions write names of groups and what stands before: no tags of a text.
_GROUP = re.compile(r"\(\?(?:P<\w+>|<[=!])")
_LETTERS = string.ascii_uppercase


def exact(text: str, task: Task) -> float:
    """1 if the answer is ``answer`` (or one of them), sign by sign."""
    answer = final_answer(text, task)
    return float(answer is not None and answer in map(_nfc, answers(task)))


def normalized(text: str, task: Task) -> float:
    """1 if the answer is ``answer`` (or one of them), but for case, quotes and a full stop."""
    answer = final_answer(text, task)
    return float(answer is not None and normalize(answer) in map(normalize, answers(task)))


def choice(text: str, task: Task) -> float:
    """1 if the answer names the right one of ``choices`` by its letter, and no other.

    ``answer`` is the letter. ``B``, ``B.``, ``(B)`` and ``B) `` with the choice's own text count;
    the text alone does not, nor does a letter within a sentence.
    """
    answer = final_answer(text, task)
    found = re.fullmatch(r"\(?([A-Z])(?:[).:]\s*(.*))?", answer or "")
    if not found or found[1] != task["answer"]:
        return 0.0
    said, meant = found[2] or "", task["choices"][_LETTERS.index(found[1])]
    return float(normalize(said) in ("", normalize(meant)))


def form(text: str, task: Task) -> float:
    """1 if the whole text is of the form ``pattern``, a regular expression."""
    cleaned = clean(text, task)
    return float(cleaned is not None and re.fullmatch(task["pattern"], cleaned) is not None)


def answers(task: Task) -> list[str]:
    """Return the answers that the task accepts."""
    given = task["answer"]
    return [given] if isinstance(given, str) else list(given)


def normalize(text: str) -> str:
    """Return `text` in NFC without case, surrounding quotes, final full stop and extra space."""
    plain = " ".join(_nfc(text).casefold().split())
    return plain.removesuffix(".").strip(_QUOTES).removesuffix(".").strip()


def check_answers(task: Task) -> None:
    """Raise `ValueError` unless ``answer`` is a text or a list of them."""
    given = task.get("answer")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError('"answer" must be a text or a list of texts')


def check_choice(task: Task) -> None:
    """Raise `ValueError` unless ``answer`` is the letter of one of ``choices``."""
    choices = task.get("choices")
    if not isinstance(choices, list) or not all(isinstance(text, str) for text in choices):
        raise ValueError('"choices" must be a list of texts')
    letters = _LETTERS[: len(choices)]
    if len(choices) < 2 or not isinstance(task.get("answer"), str) or len(task["answer"]) != 1:
        raise ValueError('"choices" must be two or more and "answer" the letter of one')
    if task["answer"] not in letters:
        raise ValueError(f'"answer" is {task["answer"]!r}; the choices are {", ".join(letters)}')


def check_form(task: Task) -> None:
    """Raise `ValueError` unless ``pattern`` is a regular expression that a text can fulfil."""
    try:
        re.compile(task.get("pattern", 0))
    except (re.error, TypeError) as error:
        raise ValueError(f'"pattern" must be a regular expression ({error})') from None
    tag = MARKUP.search(_GROUP.sub("", task["pattern"]))
    if tag:
        raise ValueError(f'"pattern" asks for {tag[0]!r}; tags earn nothing, choose other marks')


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
