"""What the reference model says of the answers of preference pairs, computed once and kept.

DPO compares the policy with the model that it started from, which never changes: one number an
answer is all that is needed of it. An answer is found again by its content, as the fragments of a
teacher cache are (`distill/cache_format.py`): a 128-bit hash of its document's tokens and of which
of them are learned. So the store knows no rows, batches or ranks.

A store is a directory of

keys.npy       [answers] 16 bytes each, sorted
log_probs.npy  [answers] float64, Σ log P(token) over the answer's tokens
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices
from nemo_bielik.data.sources import Packing, data_fingerprints
from nemo_bielik.distill.cache_format import KEY, Array, Fragments
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.phases import as_paths
from nemo_bielik.stages import describe, is_done
from nemo_bielik.training import Precision

STAGE = "reference"
#: An answer's key and log-probability, as an unfinished run keeps them.
ANSWER = np.dtype([("key", KEY), ("log_prob", "<f8")])
#: Who computes what, which changes nothing but the last digits; a killed run may change it.
HOW = ("parallel", "micro_batch_size")


@dataclass(kw_only=True)
class ReferenceConfig:
    """Log-probabilities of the answers of preference pairs under `model`, for `bielik dpo`."""

    model: Path = field(metadata={"help": "the model that the policy will start from"})
    data: list[Path] = field(
        metadata={"help": "pairs made by `bielik tokenize`; those to validate by, too"}
    )
    output: Path = field(metadata={"help": "directory to make"})
    sequence_length: int = field(
        default=32_768, metadata={"help": "tokens a sequence; longer pairs are left out"}
    )
    micro_batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    precision: Precision = field(default="fp32", metadata={"help": "the model runs in"})
    shard_rows: int = field(
        default=64,
        metadata={"help": "sequences between saves; what a kill loses on each data rank"},
    )
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        self.data = as_paths(self.data)
        if not self.data:
            raise ConfigError("data is []; give at least one directory of preference pairs")
        for name in ("sequence_length", "micro_batch_size", "shard_rows"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self.parallel.check_length(self.sequence_length)


@dataclass
class _Text:
    """The pairs as `data_fingerprints` asks for them."""

    train_data: list[Path]
    validation_data: Path | None = None
    packing: Packing = "whole"


class ReferenceLogProbs:
    """A finished store, opened for reading."""

    def __init__(self, directory: Path) -> None:
        """Open a store; raise `DataError` if it is none, or damaged."""
        self.directory, self.manifest = directory, Manifest.load(directory)
        if self.manifest.stage != STAGE:
            raise DataError(
                f"{directory}: made by stage {self.manifest.stage!r}, no reference; make one with "
                "`bielik reference`"
            )
        self._keys, self._log_probs = (self._load(name) for name in ("keys", "log_probs"))

    def require(self, data: Mapping[str, Path], sequence_length: int) -> None:
        """Raise `DataError` unless it was made of these directories, for sequences so long."""
        known = set(self.manifest.inputs.values())
        found = data_fingerprints(_Text(list(data.values())), pairs=True).values()
        for (name, directory), fingerprint in zip(data.items(), found, strict=True):
            if fingerprint not in known:
                raise DataError(
                    f"{self.directory}: was not made of {name} ({directory}); make another with "
                    "`bielik reference`, or leave reference out"
                )
        longest = int(self.manifest.config["sequence_length"])
        if sequence_length > longest:
            raise DataError(
                f"{self.directory}: holds pairs of at most {longest:,} tokens, but sequence_length "
                f"is {sequence_length:,}; make another with `bielik reference`"
            )

    def read(self, answers: Fragments) -> Array:
        """Return the log-probabilities of answers, [answers]; raise `DataError` for a gap."""
        places = np.searchsorted(self._keys, answers.keys)
        places[places == len(self._keys)] = 0
        missing = int((self._keys[places] != answers.keys).sum())
        if missing:
            raise DataError(
                f"{self.directory}: holds no log-probability for {missing} answers of a "
                "micro-batch; make another with `bielik reference`"
            )
        found: Array = self._log_probs[places]
        return found

    def _load(self, name: str) -> Array:
        path = self.directory / f"{name}.npy"
        try:
            if file_sha256(path) != self.manifest.results["sha256"][path.name]:
                raise ValueError("its hash is not the manifest's")
            found: Array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{path}: missing or damaged ({error}); copy it again, or make it anew with "
                "`bielik reference`"
            ) from None
        return found


def write_store(directory: Path, answers: Array) -> dict[str, Any]:
    """Write what `ReferenceLogProbs` reads, of an array of `ANSWER`; return the figures of it.

    An answer that comes again is kept once.
    """
    keys, first = np.unique(answers["key"], return_index=True)
    np.save(directory / "keys.npy", keys)
    np.save(directory / "log_probs.npy", answers["log_prob"][first])
    names = ("keys.npy", "log_probs.npy")
    return {
        "answers": len(keys),
        "pairs": len(answers) // 2,
        "mean_log_prob": float(answers["log_prob"].mean()),
        "sha256": {name: file_sha256(directory / name) for name in names},
    }


def prepare(config: ReferenceConfig) -> Manifest:
    """Check what the stage starts from and return its manifest: what decides the store's content.

    Raises `ConfigError` for a layout that the model does not fit, `DataError` for no pairs.
    """
    checkpoint = Checkpoint.open(config.model)
    check_layout(config.parallel, config.sequence_length, checkpoint)
    inputs = {"model": checkpoint.fingerprint()}
    inputs |= data_fingerprints(_Text(config.data), pairs=True)
    manifest = describe(STAGE, config, inputs)
    content = {name: value for name, value in manifest.config.items() if name not in HOW}
    return dataclasses.replace(manifest, config=content)


def reference(config: ReferenceConfig) -> None:
    """Write `config.output`; what an unfinished run has found is kept, on any layout."""
    manifest = prepare(config)
    if is_done(config.output, manifest):
        return

    from nemo_bielik.megatron.reference_pass import write_reference

    write_reference(config, manifest)
