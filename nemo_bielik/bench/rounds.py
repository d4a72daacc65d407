"""Rounds on disk: one file for each case, model and repeat, so that a killed bench goes on."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.artifact_files import explain_fields, load_json, save_json
from nemo_bielik.bench.metrics import RequestTimes

ROUNDS_NAME = "rounds"


@dataclass
class SavedRound:
    """What one round gave; `failure` says in a line why it broke off, if it did."""

    case: str
    role: str
    repeat: int
    requests: list[RequestTimes]
    failure: str = ""
    joules: float | None = None
    energy_method: str | None = None
    load_average: float = 0.0
    server: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.case}-{self.role}-{self.repeat}.json"

    def save(self, directory: Path) -> None:
        """Write it into `directory`, whole or not at all."""
        save_json(directory / self.name, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> "SavedRound":
        """Read one; raise `DataError` if the file is damaged."""
        value = load_json(path, "round")
        with explain_fields("round", path):
            requests = [
                RequestTimes(**{**one, "text_ns": tuple(one["text_ns"])})
                for one in value.pop("requests")
            ]
            return cls(requests=requests, **value)


def load_rounds(directory: Path) -> list[SavedRound]:
    """Return the rounds in `directory`."""
    return [SavedRound.load(path) for path in sorted(directory.glob("*.json"))]
