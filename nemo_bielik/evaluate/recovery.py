"""How much of its teacher's score a student keeps."""

import math

from nemo_bielik.errors import DataError


def recovery_percent(student: float, teacher: float, baseline: float = 0.0) -> float:
    """Return 100 · (student − baseline) / (teacher − baseline), for scores where more is better.

    With the default it is the plain ratio of the two scores. Give the score of guessing (a half
    for minimal pairs) as `baseline` to count only what a model knows: a student that guesses then
    recovers 0 %. More than 100 and less than 0 are both possible.

    Raises `DataError` if the teacher is no better than `baseline` or a score is not a number.
    """
    for name, score in (("student", student), ("teacher", teacher), ("baseline", baseline)):
        if not math.isfinite(score):
            raise DataError(f"recovery: the {name}'s score is {score}; it must be a finite number")
    if teacher <= baseline:
        raise DataError(
            f"recovery: the teacher's score is {teacher:g}, no better than the baseline of "
            f"{baseline:g}, so there is nothing to recover; choose another teacher or test"
        )
    return 100.0 * (student - baseline) / (teacher - baseline)
