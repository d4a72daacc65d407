"""What a text must be before any reward looks at it, and which one answer it gives.

A policy that is trained on a reward looks for what the reward overlooks. So nothing is mended here:
a text that repeats its question, runs on, or brings markup, invisible characters or a second answer
gives no answer at all.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

Task = Mapping[str, Any]

BOXED = "\\boxed"
#: What a task may set otherwise by ``max_characters`` and ``max_answer_characters``.
MAX_CHARACTERS = 20_000
MAX_ANSWER_CHARACTERS = 200
#: A shorter question is bound to occur in an honest answer.
_SHORTEST_QUESTION = 8
#: Turns, tags and instructions as chat templates write them; LaTeX has none of these.
MARKUP = re.compile(r"<\||\|>|<!|</?[^\W\d][^<>\n]*>|\[/?(?:INST|SYS)\]|<<|>>|�")
#: What a second answer behind a box has: a number, a command, an alternative or the marker's word.
_SECOND = re.compile(r"[\d\\]|\b(?:lub|albo|bądź|czy|or|odpowiedź|answer)\b", re.IGNORECASE)
#: Unicode categories of characters that nobody sees, or that are no characters.
_UNSEEN = frozenset({"Cc", "Cf", "Co", "Cs", "Cn"})


def clean(text: str, task: Task) -> str | None:
    """Return `text` in NFC without surrounding white space, None where it is not to be trusted.

    That is: empty, longer than ``max_characters``, with markup or unseen characters, or with the
    task's question in it.
    """
    if len(text) > int(task.get("max_characters", MAX_CHARACTERS)):
        return None
    if any(unicodedata.category(sign) in _UNSEEN and sign not in "\n\t" for sign in text):
        return None
    text = unicodedata.normalize("NFC", text).strip()
    if not text or MARKUP.search(text):
        return None
    asked = squeeze(question(task))
    if len(asked) >= _SHORTEST_QUESTION and asked in squeeze(text):
        return None
    return text


def final_answer(text: str, task: Task) -> str | None:
    r"""Return the one answer that `text` gives, None where it gives none or several.

    Without ``marker`` in the task the whole text is the answer. With one, such as ``Odpowiedź:`` or
    ``\boxed``, it is what follows the marker's only occurrence, or stands in its braces, behind
    which no number, formula or alternative may follow. It must be one line of at most
    ``max_answer_characters``.
    """
    cleaned = clean(text, task)
    if cleaned is None:
        return None
    marker = task.get("marker")
    answer = cleaned if marker is None else _after(cleaned, str(marker))
    limit = int(task.get("max_answer_characters", MAX_ANSWER_CHARACTERS))
    return answer if answer and len(answer) <= limit and "\n" not in answer else None


def with_marker(answer: str, task: Task) -> str:
    """Return the shortest text that gives `answer` to `task`."""
    marker = task.get("marker")
    if marker is None:
        return answer
    return f"{BOXED}{{{answer}}}" if marker == BOXED else f"{marker} {answer}"


def question(task: Task) -> str:
    """Return what the user said last; "" where the task has no prompt."""
    prompt = task.get("prompt", "")
    if isinstance(prompt, str):
        return prompt
    said = [message for message in prompt if message.get("role") == "user"]
    return str(said[-1].get("content", "")) if said else ""


def squeeze(text: str) -> str:
    """Return `text` without case and white space, to compare what was written, not how."""
    return "".join(unicodedata.normalize("NFC", text).casefold().split())


def _after(text: str, marker: str) -> str | None:
    if text.count(marker) != 1 or text.casefold().count(marker.casefold()) != 1:
        return None
    rest = text.partition(marker)[2]
    return _in_braces(rest) if marker == BOXED else rest.strip()


def _in_braces(text: str) -> str | None:
    """Return what stands in the braces that `text` begins with.

    None where they do not close, or where what follows may hold a second answer.
    """
    depth = 0
    for place, sign in enumerate(text):
        depth += {"{": 1, "}": -1}.get(sign, 0)
        if depth == 0:
            second = _SECOND.search(text, place + 1)
            return text[1:place].strip() if place and not second else None
    return None
