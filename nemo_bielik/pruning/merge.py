"""Score tables of shards, languages or engines → one table of the same model.

Tables are sums and counts, so they add. With weights each table counts by its weight whatever its
size: with n_i samples in table i and N = Σ n_i, the merged sums are Σ w_i · (N / n_i) · S_i with
Σ w_i = 1, so that the L2 norms taken of them when selecting are those of a calibration set which
holds each table's text in the share w_i. Cosines count tokens in the place of samples.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest
from nemo_bielik.stages import is_done, stage_output


@dataclass(kw_only=True)
class MergeConfig:
    """Which score tables of one model become one, and how much each counts."""

    merge: list[Path] = field(metadata={"help": "score directories of the same model"})
    output: Path = field(metadata={"help": "score directory to make"})
    weights: list[float] = field(
        default_factory=list,
        metadata={"help": "one a directory, above 0; none: every sample counts the same"},
    )


def merge(config: MergeConfig) -> None:
    """Merge score directories as `config` says."""
    merge_scores(config.merge, config.weights, config.output)


def merge_scores(directories: Sequence[Path], weights: Sequence[float], output: Path) -> None:
    """Merge the tables of score directories and write `output`, a score directory as well.

    Args:
        weights: one a directory, above 0, normalised here; empty: every sample counts the same.

    Raises `ConfigError` for weights that do not fit the directories, `DataError` for a directory
    that is given twice or holds no scores, or scores of another model.
    """
    shares = _shares(weights, len(directories)) if weights else []
    files = [Path(directory) / SCORES_NAME for directory in directories]
    names = [str(file.parent) for file in files]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{name}: is to be merged twice; name each directory once")
    tables = [ScoreTable.load(file) for file in files]
    inputs = {name: file_sha256(file) for name, file in zip(names, files, strict=True)}
    settings = {"merge": names, "weights": shares}
    manifest = Manifest(stage="score", config=settings, inputs=inputs)
    if is_done(output, manifest):
        return
    table = merge_tables(tables, shares, names)
    results = {
        "samples": table.samples,
        "tokens": table.tokens,
        "block_influence": table.block_influence().tolist(),
    }
    with stage_output(output, manifest, results) as scratch:
        table.save(scratch / SCORES_NAME)


def merge_tables(
    tables: Sequence[ScoreTable], weights: Sequence[float] = (), names: Sequence[str] = ()
) -> ScoreTable:
    """Return the sum of tables of one model, or their sum by weight; see the module's docstring.

    The order of the tables changes nothing, not even the last bit. One table comes back as it is.

    Args:
        weights: one a table, of sum 1; empty: as many as its samples (and tokens) are of all.
        names: what errors call the tables.
    """
    if not tables:
        raise ConfigError("there are no score tables to merge; name at least one directory")
    names = names or [f"table {number}" for number in range(1, len(tables) + 1)]
    for name, table in zip(names, tables, strict=True):
        _check_same_model(names[0], tables[0], name, table)
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


def _sum(arrays: Sequence[Float64], counts: Sequence[int], weights: Sequence[float]) -> Float64:
    """Add arrays whose sums run over `counts`; from small to large, so that their order is none."""
    if len(weights) > 1:
        total = sum(counts)
        factors = [weight * total / count for weight, count in zip(weights, counts, strict=True)]
        arrays = [factor * array for factor, array in zip(factors, arrays, strict=True)]
    added: Float64 = np.sort(np.stack(arrays), axis=0).sum(axis=0)
    return added


def _check_same_model(name: str, table: ScoreTable, other_name: str, other: ScoreTable) -> None:
    same_shape = table.arch.replace(name="") == other.arch.replace(name="")
    if table.model != other.model or not same_shape:
        raise DataError(
            f"{other_name}: holds scores of another model than {name}; merge scores of the same "
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
