"""Where an output came from: the `Manifest` that every output directory carries."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nemo_bielik.artifact_files import explain_fields, load_json, save_json
from nemo_bielik.files import value_sha256

MANIFEST_NAME = "bielik_manifest.json"
_STACK = ("nemo-bielik", "torch", "megatron-core", "megatron-bridge", "transformers")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Where an output came from: enough to make it again and to know whether that is needed."""

    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    wall_seconds: float = 0.0
    results: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: _versions())
    git_commit: str | None = field(default_factory=lambda: _git_commit())

    def save(self, directory: Path) -> None:
        """Write ``bielik_manifest.json`` into an output directory."""
        value = json.loads(json.dumps(dataclasses.asdict(self), default=str))
        save_json(directory / MANIFEST_NAME, value)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the manifest of an output directory; raise `DataError` if there is none."""
        value = load_json(directory / MANIFEST_NAME, "manifest")
        with explain_fields("manifest", directory / MANIFEST_NAME):
            for name in ("config", "inputs", "results"):
                if not isinstance(value.get(name, {}), dict):
                    raise TypeError(f"{name} must be an object")
            return cls(**value)

    def recipe(self) -> str:
        """Return a hash of what decides the output: stage, settings, inputs and seed."""
        value = [self.stage, self.config, self.inputs, self.seed]
        return value_sha256(json.loads(json.dumps(value, default=str)))


def _versions() -> dict[str, str]:
    found = {}
    for package in _STACK:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    here = Path(__file__).parent
    if not (here.parent / ".git").exists() or not shutil.which("git"):
        return None
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or None
