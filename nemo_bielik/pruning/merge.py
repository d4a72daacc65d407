"""Score directories of shards, languages or engines → one of the same model and kind.

Score tables and input norms are sums and counts, so they add. With weights each counts by its
weight whatever its size: with n_i samples in table i and N = Σ n_i, the merged sums are
Σ w_i · (N / n_i) · S_i with Σ w_i = 1, so that the L2 norms taken of them when selecting are those
of a calibration set which holds each table's text in the share w_i. Cosines and input norms count
tokens in the place of samples.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import ScoreTable
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.input_statistics import InputNorms
from nemo_bielik.pruning.methods import STATISTICS, Statistics
from nemo_bielik.stages import is_done, stage_output

#: Statistics that do not merge → why, and what to do instead.
_REFUSALS = {
    "hessians": "are sums, but too large to keep for every text; score once on all of the text",
    "gradients": "do not merge: a salience is the absolute value of a sum over the whole "
    "calibration text; score once on all of it",
    "masks": "do not merge: masks are learned, and no sum; learn them once, with the further text "
    "as shearing.domains",
}


@dataclass(kw_only=True)
class MergeConfig:
    """Which score directories of one model become one, and how much each counts."""

    merge: list[Path] = field(metadata={"help": "score directories of the same model and kind"})
    output: Path = field(metadata={"help": "score directory to make"})
    weights: list[float] = field(
        default_factory=list,
        metadata={"help": "one a directory, above 0; none: every sample counts the same"},
    )


def merge(config: MergeConfig) -> None:
    """Merge score directories as `config` says, and say in one line what was merged."""
    merge_scores(config.merge, config.weights, config.output)
    manifest = Manifest.load(config.output)
    counts = ", ".join(f"{count:,} {name}" for name, count in _counts(manifest.results).items())
    shares = ", ".join(f"{share:.3g}" for share in manifest.config["weights"])
    print(
        f"{config.output}: {manifest.config['statistics']} of {len(config.merge)} directories, "
        f"{counts}, " + (f"weights {shares}" if shares else "without weights")
    )


def merge_scores(directories: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """Merge what score directories hold and write `output`, a score directory as well.

    Args:
        weights: one a directory, above 0, normalised here; empty: every sample counts the same.

    Raises `ConfigError` for weights that do not fit the directories, `DataError` for a directory
    that is given twice or holds no scores, scores of another model or method, or some that do not
    merge.
    """
    shares = _shares(weights, len(directories)) if weights else []
    names = [str(directory) for directory in directories]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{name}: is to be merged twice; name each directory once")
    kind = _common_kind(directories)
    files = [Path(directory) / kind.file for directory in directories]
    inputs = {name: file_sha256(file) for name, file in zip(names, files, strict=True)}
    settings = {"merge": names, "weights": shares, "statistics": kind.name}
    manifest = Manifest(stage="score", config=settings, inputs=inputs)
    table = _merge_files(kind, files, shares, names)
    if is_done(output, manifest):
        return
    results: dict[str, Any] = _counts(vars(table))
    if isinstance(table, ScoreTable):
        results["block_influence"] = table.block_influence().tolist()
    with stage_output(output, manifest, results) as scratch:
        table.save(scratch / kind.file)


def _counts(values: Any) -> dict[str, int]:
    return {name: values[name] for name in ("samples", "tokens") if name in values}


def _common_kind(directories: Sequence[Path]) -> Statistics:
    """Return what all directories hold; raise unless that is one kind, which merges."""
    if not directories:
        raise ConfigError("there are no scores to merge; name at least one directory")
    kinds = [_kind(Path(directory)) for directory in directories]
    for directory, kind in zip(directories, kinds, strict=True):
        if kind != kinds[0]:
            raise DataError(
                f"{directory}: holds {kind.name} where {directories[0]} holds {kinds[0].name}; "
                "merge scores of one kind only"
            )
    if kinds[0].name in _REFUSALS:
        raise DataError(f"{directories[0]}: {kinds[0].name} {_REFUSALS[kinds[0].name]}")
    return kinds[0]


def _kind(directory: Path) -> Statistics:
    for kind in STATISTICS.values():
        if (directory / kind.file).is_file():
            return kind
    raise DataError(f"{directory}: holds no scores; make some with `bielik score`")


def _merge_files(
    kind: Statistics, files: Sequence[Path], weights: Sequence[float], names: Sequence[str]
) -> ScoreTable | InputNorms:
    if kind.name == "input-norms":
        return merge_norms([InputNorms.load(file) for file in files], weights, names)
    return merge_tables([ScoreTable.load(file) for file in files], weights, names)


def merge_tables(
    tables: Sequence[ScoreTable], weights: Sequence[float] = (), names: Sequence[str] = ()
) -> ScoreTable:
    """Return the sum of tables of one model, or their sum by weight; see the module's docstring.

    The order of the tables changes nothing, not even the last bit. One table comes back as it is.

    Args:
        weights: one a table, of sum 1; empty: as many as its samples (and tokens) are of all.
        names: what errors call the tables.
    """
    _check_same_model(tables, names)
    samples = [table.samples for table in tables]
    tokens = [table.tokens for table in tables]
    return dataclasses.replace(
        tables[0],
        hidden=_sum([table.hidden for table in tables], samples, weights),
        ffn=_sum([table.ffn for table in tables], samples, weights),
        heads=_sum([table.heads for table in tables], samples, weights),
        cosine=_sum([table.cosine for table in tables], tokens, weights),
        samples=sum(samples),
        tokens=sum(tokens),
    )


def merge_norms(
    tables: Sequence[InputNorms], weights: Sequence[float] = (), names: Sequence[str] = ()
) -> InputNorms:
    """Return the sum of input norms of one model, or their sum by weight, as `merge_tables` does.

    The order of the tables changes rounding only.
    """
    _check_same_model(tables, names)
    factors = _factors([table.tokens for table in tables], weights)
    return functools.reduce(InputNorms.merge, map(_scaled, tables, factors))


def _scaled(table: InputNorms, factor: float) -> InputNorms:
    squares = {name: factor * array for name, array in table.squares.items()}
    return dataclasses.replace(table, squares=squares)


def _sum(arrays: Sequence[Float64], counts: Sequence[int], weights: Sequence[float]) -> Float64:
    """Add arrays whose sums run over `counts`; from small to large, so that their order is none."""
    factors = _factors(counts, weights)
    scaled = [factor * array for factor, array in zip(factors, arrays, strict=True)]
    added: Float64 = np.sort(np.stack(scaled), axis=0).sum(axis=0)
    return added


def _factors(counts: Sequence[int], weights: Sequence[float]) -> list[float]:
    """Return what sums over `counts` are multiplied by to count by `weights`; 1 without any."""
    if len(weights) < 2:
        return [1.0] * len(counts)
    total = sum(counts)
    return [weight * total / count for weight, count in zip(weights, counts, strict=True)]


def _check_same_model(tables: Sequence[ScoreTable | InputNorms], names: Sequence[str]) -> None:
    names = names or [f"table {number}" for number in range(1, len(tables) + 1)]
    for name, table in zip(names, tables, strict=True):
        same_shape = table.arch.replace(name="") == tables[0].arch.replace(name="")
        if table.model != tables[0].model or not same_shape:
            raise DataError(
                f"{name}: holds scores of another model than {names[0]}; merge scores of the same "
                "weights only"
            )


def _shares(weights: Sequence[float], tables: int) -> list[float]:
    if len(weights) != tables:
        raise ConfigError(
            f"{len(weights)} weights for {tables} score directories; give each directory its own, "
            "in the same order, or none at all"
        )
    for weight in weights:
        if not 0 < weight < math.inf:
            raise ConfigError(
                f"weight {weight} is not a finite number above 0; leave its directory out instead"
            )
    total = math.fsum(weights)
    return [weight / total for weight in weights]
