"""LLM-Pruner: coupled groups are ranked by how much the loss is expected to rise without them.

Ma et al., "LLM-Pruner: On the Structural Pruning of Large Language Models" (2023); the report's
equation 6. One `TaylorTable` serves block-wise (heads, query groups, ffn channels), channel-wise
(hidden channels) and layer-wise pruning; the target's sizes decide which of them is used. LoRA
recovery is `bielik distill` or `bielik train` with ``lora.rank``.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nemo_bielik.artifact_files import Float64
from nemo_bielik.pruning.groups import Member, coupled_groups
from nemo_bielik.pruning.select import Importance
from nemo_bielik.pruning.taylor import TAYLOR_NAME, TaylorTable, entry

if TYPE_CHECKING:
    from nemo_bielik.pruning.prune import PruneConfig


def importance(scores: Path, options: "PruneConfig") -> Importance:
    """Return the importance of every unit by the Taylor table in the directory `scores`."""
    table = TaylorTable.load(scores / TAYLOR_NAME)
    return from_table(table, options.taylor, options.aggregation)


def from_table(table: TaylorTable, order: str, aggregation: str) -> Importance:
    """Combine the saliences of every group's members.

    Args:
        order: ``first`` or ``fisher`` (`TaylorTable`).
        aggregation: over the members of a group, ``sum``; ``prod``, as the geometric mean, which
            ranks alike and cannot overflow; ``max``; or ``last``, the member that runs last (o for
            heads and query groups, down for ffn channels and layers, the output layer for hidden
            channels).
    """
    salience, combine = table.salience[order], AGGREGATIONS[aggregation]
    groups = coupled_groups(table.arch)

    def of(unit: str) -> Float64:  # [members, layers, units]
        return np.stack([_by_unit(member, unit, salience, table) for member in groups[unit]])

    channels = [salience[entry(member)] for member in groups["hidden"]]  # of [rows, hidden] each
    return Importance(
        arch=table.arch,
        layers=combine(of("layers")),
        hidden=combine(np.concatenate(channels)),
        ffn=combine(of("ffn")),
        heads=combine(of("heads")),
        groups=combine(of("groups")),
        model=table.model,
    )


def _by_unit(
    member: Member, unit: str, salience: Mapping[str, Float64], table: TaylorTable
) -> Float64:
    """Return a member's salience by unit: of a query group, what its heads have in all."""
    found = salience[entry(member)]
    if unit == "groups" and member.axis == "heads":
        by_group = found.reshape(len(found), table.arch.num_query_groups, -1)
        return np.asarray(by_group.sum(axis=-1))
    return found


def _geometric_mean(members: Float64) -> Float64:
    with np.errstate(divide="ignore"):  # a member without salience makes the product zero
        return np.asarray(np.exp(np.log(members).mean(axis=0)))


#: Ways to make one number of the saliences of a group's members, [members, …] → […].
AGGREGATIONS: Mapping[str, Callable[[Float64], Float64]] = {
    "sum": lambda members: np.asarray(members.sum(axis=0)),
    "prod": _geometric_mean,
    "max": lambda members: np.asarray(members.max(axis=0)),
    "last": lambda members: members[-1],
}
