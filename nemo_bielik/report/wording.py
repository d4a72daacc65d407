"""Numbers and names as people read them."""

from collections.abc import Sequence

from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED, TEACHER

#: What a chart or table calls each kind of model.
NAMES = {
    TEACHER: "teacher",
    PRUNED: "pruned",
    DISTILLED: "distilled",
    LABEL_TRAINED: "trained on labels",
    FROM_SCRATCH: "from random weights",
    "baseline": "baseline",
}
NONE = "–"
_JOINED = "\N{NO-BREAK SPACE}"


def count(value: float) -> str:
    """Return 1234567 as ``1.23 M``; below ten thousand every digit is given."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{_three_digits(value / size)}{_JOINED}{unit}"
    return f"{value / 1e3:.0f}{_JOINED}k" if abs(value) >= 1e4 else f"{value:,.0f}"


def size_bytes(value: float | None) -> str:
    """Return a number of bytes with a decimal unit."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{value:.0f} B"


def memory(value: float) -> str:
    """Return bytes of memory in GiB."""
    return f"{value / 2**30:.2f} GiB"


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``42.0 s``, ``9 min 12 s``, ``3 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float, digits: int = 1) -> str:
    """Return a number with thousands marked and a true minus sign."""
    text = f"{value:,.{digits}f}"
    if text.startswith("-"):
        text = text[1:] if not float(text.replace(",", "")) else "−" + text[1:]
    return text


def percent(value: float, digits: int = 1) -> str:
    """Return a figure that is in percent already."""
    return f"{number(value, digits)}{_JOINED}%"


def perplexity(value: float) -> str:
    """Return a perplexity with the digits that matter."""
    return number(value, 2 if value < 100 else 0)


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Return ``2, 5–7`` for [2, 5, 6, 7]."""
    parts: list[list[int]] = []
    for value in numbers:
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 2 else ", ".join(map(str, p)) for p in parts)


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
