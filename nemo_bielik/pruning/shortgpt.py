"""ShortGPT: whole layers go, those that change the residual stream least.

Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2024);
the report's equation 5. `nemo_bielik.pruning.depth` has further ways to choose layers.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.pruning.select import Importance

if TYPE_CHECKING:
    from nemo_bielik.pruning.prune import PruneConfig


def importance(scores: Path, options: "PruneConfig") -> Importance:
    """Return the Block Influence of every layer; nothing else is ranked."""
    table = ScoreTable.load(scores / SCORES_NAME)
    return Importance(arch=table.arch, layers=table.block_influence(), model=table.model)
