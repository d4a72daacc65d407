"""The one table of rewards, and those that a user adds to it."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

from nemo_bielik.align.rewards import inflection, mathematics, text
from nemo_bielik.align.rewards.answers import Task, with_marker
from nemo_bielik.errors import ConfigError, nearest

RewardFunction = Callable[[str, Task], float]


def _nothing_to_check(task: Task) -> None:
    pass


def _nothing_to_prepare() -> None:
    pass


def _no_example(task: Task) -> str | None:
    return None


def _given_answer(task: Task) -> str | None:
    given = task["answer"]
    return with_marker(str(given[0] if isinstance(given, list) else given), task)


def _given_or_right_form(task: Task) -> str | None:
    return with_marker(task.get("answer", inflection.right_form(task)), task)


@dataclass(frozen=True)
class Reward:
    """One row: a pure function of an answer's text and its task.

    `check` raises `ValueError` for a task that lacks what it needs; `example` gives a text that
    must earn 1, by which a task is tried before it is used; `prepare` imports what takes long.
    """

    name: str
    function: RewardFunction
    check: Callable[[Task], None] = _nothing_to_check
    example: Callable[[Task], str | None] = _no_example
    prepare: Callable[[], None] = _nothing_to_prepare


_ROWS = (
    Reward("math", mathematics.equal, mathematics.check, _given_answer, mathematics.prepare),
    Reward("choice", text.choice, text.check_choice, _given_answer),
    Reward("exact", text.exact, text.check_answers, _given_answer),
    Reward("normalized", text.normalized, text.check_answers, _given_answer),
    Reward("format", text.form, text.check_form),
    Reward("inflection", inflection.inflected, inflection.check, _given_or_right_form),
)
REWARDS = {reward.name: reward for reward in _ROWS}


def known_rewards(own: Sequence[str] = ()) -> dict[str, Reward]:
    """Return the rewards by name, those of `own` (``module:function``) by the function's name.

    Raises `ConfigError` for one that cannot be imported or has a name that is taken.
    """
    found = dict(REWARDS)
    for path in own:
        module, _, name = path.partition(":")
        if name in found:
            raise ConfigError(f"rewards: {path}: there is a reward {name!r} already; rename yours")
        try:
            function = getattr(_imported(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"rewards: {path!r} cannot be imported ({error}); write it as module:function"
            ) from None
        found[name] = Reward(name, function)
    return found


def _imported(module: str) -> ModuleType:
    """Import a module, also one in the current directory, where a script does not look."""
    sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(os.getcwd())


def find_reward(name: object, known: dict[str, Reward]) -> Reward:
    """Return the reward called `name`; raise `ValueError` with the nearest name."""
    if not isinstance(name, str) or name not in known:
        hint = nearest(str(name), known)
        raise ValueError(f'"reward" is {name!r}{hint}; known are {", ".join(known)}')
    return known[name]
