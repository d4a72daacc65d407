"""Polish inflection, judged by the morphology of the built-in world."""

import unicodedata
from functools import cache

from nemo_bielik.align.rewards.answers import Task, final_answer
from nemo_bielik.data.tiny_polish.inflection import Case, Number
from nemo_bielik.data.tiny_polish.lexicon import Noun, load_lexicon
from nemo_bielik.errors import nearest


def inflected(text: str, task: Task) -> float:
    """1 if the answer is the form of noun ``lemma`` in ``case`` and ``number``, and that alone.

    Case and number are named as in `Case` and `Number` (``ins``, ``pl``); a capital and a full
    stop make no difference.
    """
    answer = final_answer(text, task)
    if answer is None:
        return 0.0
    return float(unicodedata.normalize("NFC", answer).removesuffix(".").lower() == right_form(task))


def right_form(task: Task) -> str:
    """Return the form that the task asks for."""
    return _nouns()[task["lemma"]].forms[Case(task["case"]), Number(task["number"])]


def check(task: Task) -> None:
    """Raise `ValueError` unless the task names a noun of the lexicon, a case and a number.

    It may tell the form as ``answer`` too.
    """
    for name, allowed in (("case", list(Case)), ("number", list(Number))):
        if task.get(name) not in allowed:
            raise ValueError(f'"{name}" is {task.get(name)!r}; allowed are {", ".join(allowed)}')
    lemma = task.get("lemma")
    if not isinstance(lemma, str) or lemma not in _nouns():
        hint = nearest(str(lemma), _nouns())
        raise ValueError(f'"lemma" is {lemma!r}, which the built-in lexicon does not know{hint}')
    if not isinstance(task.get("answer", ""), str):
        raise ValueError('"answer" must be a text, or left out')


@cache
def _nouns() -> dict[str, Noun]:
    return {noun.lemma: noun for noun in load_lexicon().nouns}
