"""Mathematical equality, judged by math-verify.

It parses LaTeX and lets SymPy compare, which evaluates what the answer says: run this only where it
can be killed (`worker.py`). What it compares is narrowed here first, because ``2+2`` does equal 4.
"""

import re
from typing import Any

from nemo_bielik.align.rewards.answers import Task, final_answer, question, squeeze

#: An integer, a decimal or a fraction of two: a number that is worked out.
_DIGITS = r"(?:\d+(?:\.\d+)?|\.\d+)"
_DECIMAL = re.compile(rf"[-+]?{_DIGITS}")
_NUMBER = re.compile(rf"[-+]?(?:{_DIGITS}|{_DIGITS}/{_DIGITS}|\\d?frac\{{\d+\}}\{{\d+\}})")
_THOUSANDS = re.compile(r"(?<=\d)[ \u00a0\u202f](?=\d{3}(?!\d))")
_WRAPPING = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"))
#: How far two numbers may lie apart, of the wanted one: six digits (``0.333333`` for ``1/3``).
_TOLERANCE = 1.01e-6
#: How a formula may be set otherwise and stay the same.
_SIZES = re.compile(r"\\(?:left|right)(?![^\W\d_])")
_BRACED_SIGN = re.compile(r"(?<!\\)\{([^{}\\])\}")
_LETTERS_ONLY = re.compile(r"[^\W\d_]{3,}")
_OPENING = re.compile(r"(?:\\left)?\s*(\\?[({\[])")
#: Words have no place in a formula; functions and symbols begin with a backslash.
_WORD = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]{3,}")
#: What may stand between two answers; math-verify reads one of them and is content.
_SEPARATORS = (",", ";", "=", "$", "\\\\", "\\(", "\\)", "\\[", "\\]")
_COMMAND = re.compile(r"\\[^\W\d_]+")
#: Of these one value is made; any other command (``\approx``, ``\boxed``) must be ``answer``'s too.
_BUILDING = re.compile(
    r"\\(?:[dt]?frac|sqrt|binom|cdot|times|div|pi|left|right|ln|log|exp|circ|cot"
    r"|(?:arc)?(?:sin|cos|tan))"
)
_SIGNS = frozenset("·×÷−√π°")
_SAME = {"\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne"}
_LONGER = 2


def equal(text: str, task: Task) -> float:
    r"""1 if the answer equals ``answer`` and is as worked out as it.

    To a number only a number is an answer (``-3``, ``0,5``, ``1/2``, ``\frac{1}{2}``), to six
    digits; to a whole one no fraction. To a formula (LaTeX) any equal formula is that has the same
    letters, is not much longer than ``answer`` and holds no words, more separators or relations
    than it. A part of the question is none, however it is set.
    """
    answer = final_answer(text, task)
    if answer is None:
        return 0.0
    given, wanted = _plain(answer), _plain(str(task["answer"]))
    fair = given == wanted or _is_worked_out(given, wanted, _bare(question(task)))
    return float(fair and _verify(wanted, given))


def check(task: Task) -> None:
    """Raise `ValueError` unless ``answer`` is a text or a number."""
    given = task.get("answer")
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ValueError('"answer" must be a number or a formula in LaTeX')
    if _LETTERS_ONLY.fullmatch(_plain(str(given))):
        raise ValueError(
            f'"answer" is {given!r}, of letters alone, which mathematics multiplies in any order; '
            'judge words by "exact" or "normalized", write a product with \\cdot'
        )


def prepare() -> None:
    """Import what `equal` needs and parse once: the first time takes seconds."""
    _verify("x^{2}", "x^2")


def _is_worked_out(given: str, wanted: str, asked: str) -> bool:
    if _bare(given) in asked and _bare(wanted) not in asked:
        return False
    if _NUMBER.fullmatch(wanted):
        is_whole = wanted.lstrip("+-").isdigit()
        return (_DECIMAL if is_whole else _NUMBER).fullmatch(given) is not None
    if not _are_alike(given, wanted):
        return False
    if len(given) > _LONGER * len(wanted) + 10:
        return False
    if _WORD.search(given) and not _WORD.search(wanted):
        return False
    if not all(map(_BUILDING.fullmatch, _commands(given) - _commands(wanted))):
        return False
    if {sign for sign in given if not sign.isascii()} - _SIGNS - set(wanted):
        return False
    return all(given.count(sign) <= wanted.count(sign) for sign in _SEPARATORS)


def _are_alike(given: str, wanted: str) -> bool:
    """Whether two formulas have the same letters, and lists the same brackets: sets are no pairs.

    The unknown of an equation may be left out: ``5`` for ``x=5``.
    """
    own, other = _letters(given), _letters(wanted)
    if own != other and (own or len(other) > 1 or "=" not in wanted):
        return False
    openings = [_OPENING.match(formula) for formula in (given, wanted)]
    return "," not in wanted or len({found and found[1] for found in openings}) == 1


def _letters(formula: str) -> set[str]:
    return {sign for sign in _COMMAND.sub(" ", formula) if sign.isalpha() and sign != "π"}


def _bare(formula: str) -> str:
    """Return what a formula says, without how it is set."""
    plain = re.sub(r"\\[dt]frac", r"\\frac", _SIZES.sub("", formula))
    return squeeze(_BRACED_SIGN.sub(r"\1", plain))


def _commands(formula: str) -> set[str]:
    return {_SAME.get(name, name) for name in _COMMAND.findall(formula)}


def _plain(answer: str) -> str:
    """Return a formula without dollars and full stop, a Polish number as LaTeX has it."""
    answer = answer.strip().removesuffix(".").strip()
    for start, end in _WRAPPING:
        if answer.startswith(start) and answer.endswith(end) and len(answer) > len(start + end):
            answer = answer[len(start) : -len(end)].strip()
    number = _THOUSANDS.sub("", answer).replace("−", "-")
    if re.fullmatch(r"[-+]?\d+,\d+", number):
        number = number.replace(",", ".")
    return number if _NUMBER.fullmatch(number) else answer


def _verify(wanted: str, given: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    latex = [LatexExtractionConfig()]
    # the worker is killed at its limit; the library's own one would set a signal
    parsed = [
        parse(f"${formula}$", extraction_config=latex, parsing_timeout=None, raise_on_error=True)
        for formula in (wanted, given)
    ]
    if not all(parsed) or not verify(*parsed, timeout_seconds=None):
        return False
    return _are_near(*(one[0] for one in parsed))


def _are_near(wanted: Any, given: Any) -> bool:
    """Whether two numbers agree to six digits; math-verify's six decimals take small ones for 0."""
    if not all(getattr(value, "is_number", False) for value in (wanted, given)):
        return True
    exact, found = (complex(value.evalf()) for value in (wanted, given))
    return abs(found - exact) <= _TOLERANCE * abs(exact)
