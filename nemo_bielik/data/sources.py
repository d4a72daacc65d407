"""The directories of tokens that a run reads: which they are, and whether they go together."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from nemo_bielik.data.indexed import has_loss
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest

#: How documents come into rows: cut at the rows' ends, or whole with the rest of a row padded.
Packing = Literal["auto", "cut", "whole"]


class TextSettings(Protocol):
    """What says which text is read, whoever reads it."""

    train_data: list[Path]
    validation_data: Path | None
    packing: Packing


def data_fingerprints(config: TextSettings, pairs: bool = False) -> dict[str, str]:
    """Return the identity of every directory of tokens, by the setting that names it.

    Raises `DataError` for what holds no tokens, or tokens of another tokenizer than the first, and
    `ConfigError` for conversations that would be cut, or for preference pairs where none are
    wanted (`pairs`), or the other way round.
    """
    found, data = {}, data_directories(config)
    for name, directory in data.items():
        found[name] = tokens_fingerprint(directory)
        require_kind(name, directory, pairs)
        if config.packing == "cut" and has_loss(directory):
            raise ConfigError(
                f"packing=cut would cut the conversations of {directory}; leave packing as it is"
            )
    _check_same_tokens(data)
    return found


def data_directories(config: TextSettings) -> dict[str, Path]:
    """Return every directory of tokens that a run reads, by the setting that names it."""
    settings: list[tuple[str, list[Path]]] = [("train_data", config.train_data)]
    for number, phase in enumerate(getattr(config, "phases", [])):
        settings.append((f"phases[{number}].train_data", phase.train_data or []))
    if config.validation_data is not None:
        settings.append(("validation_data", [config.validation_data]))
    return {
        name if len(paths) == 1 else f"{name}[{number}]": path
        for name, paths in settings
        for number, path in enumerate(paths)
    }


def require_kind(name: str, directory: Path, pairs: bool) -> None:
    """Raise `ConfigError` unless a directory of tokens holds preference pairs, or none."""
    if holds_pairs(directory) and not pairs:
        raise ConfigError(
            f"{name} ({directory}) holds preference pairs, of which one answer is not to be "
            "learned; train on them with `bielik dpo`"
        )
    if pairs and not holds_pairs(directory):
        raise ConfigError(
            f"{name} ({directory}) holds no preference pairs; make them with `bielik tokenize` "
            'from JSON lines with "prompt", "chosen" and "rejected"'
        )


def holds_pairs(directory: Path) -> bool:
    """Whether the documents of a directory of tokens are pairs of answers, two by two."""
    return "pairs" in Manifest.load(directory).results


def _check_same_tokens(data: Mapping[str, Path]) -> None:
    """Raise `DataError` unless all directories were made with one tokenizer."""
    first, *others = data.items()
    for name, directory in others:
        if _token_identity(directory) != _token_identity(first[1]):
            raise DataError(
                f"{name} ({directory}) and {first[0]} ({first[1]}) were made with different "
                "tokenizers; tokenize both with the model's own"
            )


def _token_identity(tokens: Path) -> tuple[str | None, int]:
    return Manifest.load(tokens).inputs.get("tokenizer"), end_of_document(tokens)


def tokens_fingerprint(directory: Path) -> str:
    """Return the identity of a directory of tokens; raise `DataError` if it is none."""
    if not (directory / "tokens.idx").is_file():
        raise DataError(f"{directory}: holds no tokens.idx; make it with `bielik tokenize`")
    return Manifest.load(directory).recipe()


def end_of_document(tokens: Path) -> int:
    """Return the id of the token that closes every document of a directory of tokens."""
    return int(Manifest.load(tokens).results["end_of_document"])


def check_blend(train_data: list[Path], train_weights: list[float]) -> None:
    """Raise `ConfigError` unless there is text, and a weight for each part of it or none at all."""
    if not train_data:
        raise ConfigError("train_data is []; it must be at least one directory of tokens")
    if train_weights and len(train_weights) != len(train_data):
        raise ConfigError(
            f"train_weights has {len(train_weights)} values for {len(train_data)} directories of "
            "train_data; give one for each, or none"
        )
    if any(not 0 < weight < math.inf for weight in train_weights):
        raise ConfigError(f"train_weights is {train_weights}; each must be finite and above 0")
