"""Minitron: activation statistics rank hidden channels, ffn channels, heads and query groups.

Muralidharan et al., "Compact Language Models via Pruning and Knowledge Distillation" (2024); the
report's equations 8 and 9. Layers go by Block Influence, as the report has it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_bielik.artifact_files import Float64
from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.pruning.select import Importance

if TYPE_CHECKING:
    from nemo_bielik.pruning.prune import PruneConfig


def importance(scores: Path, options: "PruneConfig") -> Importance:
    """Return the importance of every unit by the score table in the directory `scores`."""
    return from_table(ScoreTable.load(scores / SCORES_NAME))


def from_table(table: ScoreTable) -> Importance:
    """Take the L2 norm over the samples, by a square root, after all ranks have been added up.

    - layers: Block Influence (equation 5);
    - hidden channels: Σ over the norms of √(sum of squares), one ranking for the model (8);
    - ffn channels and heads: √(sum of squares), per layer (9).
    """
    return Importance(
        arch=table.arch,
        layers=table.block_influence(),
        hidden=hidden_importance(table),
        ffn=np.sqrt(table.ffn),
        heads=np.sqrt(table.heads),
        model=table.model,
    )


def hidden_importance(table: ScoreTable) -> Float64:
    """Return equation 8: L2 over the samples at every norm, summed over the norms, [hidden]."""
    found: Float64 = np.sqrt(table.hidden).sum(axis=0)
    return found
