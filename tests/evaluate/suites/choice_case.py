"""What one case of `test_choices.py` is: rows of a dataset, and what the model is to be asked."""

import random
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """`shot` and `prompts` are what the model must be asked; `right` are places in `choices`."""

    suite: str
    task: str
    dataset: str
    splits: dict[str, list[dict[str, Any]]]
    shot: str
    prompts: list[str]
    choices: list[str]
    right: list[int]
    config: str | None = None
    shots: int = 5
    descriptions: list[str] = field(default_factory=list)  # before the shots, item by item
    choices_of: list[list[str]] = field(default_factory=list)  # where every item has its own
    by_length: bool = False
    delimiter: str = " "
    endings: list[str] = field(default_factory=list)  # what follows every choice, and is scored
    labels: list[int] = field(default_factory=list)  # right choices, whose probability is scored

    pool: list[str] = field(default_factory=list)  # all shots, where they cannot be alike
    card: str = ""  # what its repository's README.md says

    @property
    def contexts(self) -> list[str]:
        """The whole prompts; from a `pool`, as lm-eval draws with the seed that Runner sets."""
        before = self.descriptions or [""] * len(self.prompts)
        draw = random.Random(1234)
        shots = [
            "".join(f"{one}\n\n" for one in draw.sample(self.pool, self.shots))
            if self.pool
            else f"{self.shot}\n\n" * self.shots
            for _ in self.prompts
        ]
        return [
            first + shot + text
            for first, shot, text in zip(before, shots, self.prompts, strict=True)
        ]
