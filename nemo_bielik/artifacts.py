"""The values that pass between stages: typed, versioned, hashable, readable without torch.

score → `ScoreTable` → select → `PruningPlan` → slice. Every output directory also carries a
`Manifest` that says what it was made from, with which settings, and by which versions.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import BielikError, DataError
from nemo_bielik.files import atomic_file, value_sha256, write_json

Float64 = NDArray[np.float64]
MANIFEST_NAME = "bielik_manifest.json"
SCORES_NAME = "scores.safetensors"
PLAN_NAME = "pruning_plan.json"
FORMAT_VERSION = 1
_STACK = ("nemo-bielik", "torch", "megatron-core", "megatron-bridge", "transformers")


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Importance of every prunable unit, as float64 sums that merge by addition.

    With a[b, s, k] an activation (sample, position, unit), the sums are over samples b of
    (mean over s of |a|)², so that Minitron's L2-over-batch of mean-over-sequence (the report's
    equations 8 and 9) is the square root, taken only when selecting.

    Attributes:
        hidden: [2 · layers, hidden]; rows 2l and 2l+1 are layer l's attention and MLP norm outputs.
        ffn: [layers, ffn]; input of the down projection.
        heads: [layers, heads]; input of the output projection, squares summed within a head.
        cosine: [layers]; sum over tokens of cos(x_l, x_{l+1}), x_l the residual stream entering l.
        samples: number of samples in the first three.
        tokens: number of tokens in `cosine`.
        model: fingerprint of the scored checkpoint.
    """

    arch: ModelArch
    hidden: Float64
    ffn: Float64
    heads: Float64
    cosine: Float64
    samples: int
    tokens: int
    model: str

    def __post_init__(self) -> None:
        layers = self.arch.num_layers
        for name, shape in {
            "hidden": (2 * layers, self.arch.hidden_size),
            "ffn": (layers, self.arch.ffn_hidden_size),
            "heads": (layers, self.arch.num_attention_heads),
            "cosine": (layers,),
        }.items():
            array = getattr(self, name)
            if array.shape != shape:
                raise DataError(
                    f"score table: {name} has shape {array.shape}, not {shape} as the model "
                    f"{self.arch.name} calls for"
                )
            if not np.isfinite(array).all():
                raise DataError(f"score table: {name} holds NaN or infinity; score again")
            if name != "cosine" and (array < 0).any():
                raise DataError(f"score table: {name} holds negative sums of squares; score again")
        if self.samples < 1 or self.tokens < 1:
            raise DataError(
                f"score table: covers {self.samples} samples and {self.tokens} tokens; score again"
            )

    def merge(self, other: Self) -> Self:
        """Add the sums of another shard, rank or language scored on the same model."""
        if self.model != other.model:
            raise DataError("score tables come from different models; score both on the same one")
        return dataclasses.replace(
            self,
            hidden=self.hidden + other.hidden,
            ffn=self.ffn + other.ffn,
            heads=self.heads + other.heads,
            cosine=self.cosine + other.cosine,
            samples=self.samples + other.samples,
            tokens=self.tokens + other.tokens,
        )

    def block_influence(self) -> Float64:
        """Return 1 − mean cosine between each layer's input and output (equation 5), [layers]."""
        return 1.0 - self.cosine / self.tokens

    def save(self, path: Path) -> None:
        """Write one safetensors file: float64 arrays, everything else in its header."""
        metadata = {
            "version": FORMAT_VERSION,
            "arch": dataclasses.asdict(self.arch),
            "samples": self.samples,
            "tokens": self.tokens,
            "model": self.model,
        }
        arrays = {name: getattr(self, name) for name in ("hidden", "ffn", "heads", "cosine")}
        content = serialize(arrays, metadata={"score_table": json.dumps(metadata)})
        with atomic_file(path) as scratch:
            scratch.write_bytes(content)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        if not path.is_file():
            raise DataError(f"{path}: no such score table; make one with `bielik score`")
        try:
            with safe_open(path, framework="numpy") as stored:
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                metadata = json.loads(stored.metadata()["score_table"])
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: is not a score table ({error}); score again") from None
        _require_version(metadata, path)
        metadata.pop("version")
        with _explain_fields("score table", path):
            return cls(**{**metadata, "arch": ModelArch(**metadata["arch"]), **arrays})


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """What is kept, by index into the source; everything is sorted ascending.

    Attributes:
        layers: kept layers.
        hidden: kept hidden channels, one set for the whole model.
        ffn: kept ffn channels of each kept layer, in the order of `layers`.
        groups: kept query groups of each kept layer.
        heads: kept query heads of each kept layer, whole-model numbering.
        rescale_norms: whether RMSNorm weights are scaled by √(H/H′) and eps by H/H′ when hidden
            channels go, which keeps the function where the cut channels were zero.
        source_model: fingerprint of the checkpoint that the scores came from.
    """

    source: ModelArch
    target: ModelArch
    layers: list[int]
    hidden: list[int]
    ffn: list[list[int]]
    groups: list[list[int]]
    heads: list[list[int]]
    rescale_norms: bool = True
    source_model: str = ""

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, {"version": FORMAT_VERSION, **dataclasses.asdict(self)})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote; raise `DataError` on anything else."""
        value = _read_json(path, "pruning plan")
        _require_version(value, path)
        value.pop("version")
        with _explain_fields("pruning plan", path):
            archs = {name: ModelArch(**value[name]) for name in ("source", "target")}
            return cls(**{**value, **archs})


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
        value = {"version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_json(directory / MANIFEST_NAME, json.loads(json.dumps(value, default=str)))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the manifest of an output directory; raise `DataError` if there is none."""
        value = _read_json(directory / MANIFEST_NAME, "manifest")
        _require_version(value, directory / MANIFEST_NAME)
        value.pop("version")
        with _explain_fields("manifest", directory / MANIFEST_NAME):
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
    if not (here.parent / ".git").exists():
        return None
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.stdout.strip() or None


def _read_json(path: Path, what: str) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"{path}: no such {what}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is not a {what} ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: is not a {what}; it must hold one JSON object")
    return value


@contextlib.contextmanager
def _explain_fields(what: str, path: Path) -> Iterator[None]:
    """Turn a missing, unknown or ill-typed field into one line about the file."""
    try:
        yield
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a {what} of this version ({error})") from None
    except BielikError as error:
        raise DataError(f"{path}: {error}") from None


def _require_version(value: Mapping[str, Any], path: Path) -> None:
    if value.get("version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: format version {value.get('version')!r}; this release reads {FORMAT_VERSION}"
        )
