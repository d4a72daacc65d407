"""Context parallelism: each sequence is split over ranks, in all layers and in the loss.

Only attention sees other ranks' tokens. It gathers their keys and values, which grouped queries
keep small, and attends from its own queries alone (Llama Team, "The Llama 3 Herd of Models", 2024,
section 3.3.2). Which token may see which is a dense mask, as elsewhere without Transformer Engine.
Where Transformer Engine is installed, its own context parallelism is not used all the same: it
splits every packed document by itself, and takes only lengths that divide by 2 · ranks.

A sequence is cut into 2 · ranks pieces, of which rank r has numbers r and 2 · ranks − 1 − r, so
that all have as much to attend to. Megatron's rotary embedding deals positions in the same way;
they count through the row, since only distances within a document matter.

Shapes: b rows, s tokens of a row, n ranks; heads and groups are those of this tensor-parallel rank.
"""

import math
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary


def places_of(rank: int, ranks: int, length: int) -> Tensor:
    """Return which tokens of a row of `length` a rank has, in their order, [length / ranks]."""
    pieces = torch.arange(length).view(2 * ranks, -1)
    return pieces[[rank, 2 * ranks - 1 - rank]].flatten()


def own_part(rows: Tensor) -> Tensor:
    """Return this rank's part [b, s / n] of what every token of a row has, [b, s]."""
    rank, ranks = _rank_of_ranks()
    return rows[:, places_of(rank, ranks, rows.size(1)).to(rows.device)]


def own_mask(position_ids: Tensor) -> Tensor:
    """Return [b, 1, s / n, s], True where a query of this rank must NOT see a key of any.

    Keys stand in the order in which the ranks' parts are gathered.

    Args:
        position_ids: of whole rows, [b, s]; they start again at every document.
    """
    rank, ranks = _rank_of_ranks()
    parts = [places_of(number, ranks, position_ids.size(1)) for number in range(ranks)]
    queries, keys = (x.to(position_ids.device) for x in (parts[rank], torch.cat(parts)))
    documents = (position_ids == 0).cumsum(dim=1)
    other = documents[:, queries].unsqueeze(2) != documents[:, keys].unsqueeze(1)
    return (other | (keys > queries.unsqueeze(1))).unsqueeze(1)


def _rank_of_ranks() -> tuple[int, int]:
    group = parallel_state.get_context_parallel_group()
    return group.rank(), group.size()


#: What is added to scores for the masks in use, by type: the layers of a model share it.
_BIASES = WeakTensorKeyDictionary()


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a query may see a key and −∞ where it must not, made once for every mask."""
    made: dict[torch.dtype, Tensor] = _BIASES.setdefault(mask, {})
    if dtype not in made:
        zeros = torch.zeros_like(mask, dtype=dtype)
        made[dtype] = zeros.masked_fill_(mask, -math.inf)
    return made[dtype]


class GatheringAttention(MegatronModule):
    """Softmax attention from a rank's own queries to the keys and values of all context ranks.

    The backward pass sends every rank's part of the gradients of keys and values back and sums it.
    Scores are never held whole where torch has a kernel that takes a mask.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *_: Any,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection,
        **__: Any,
    ) -> None:
        super().__init__(config=config)
        assert config.softmax_type == "vanilla" and not config.attention_dropout
        self.scale, self.group = softmax_scale, pg_collection.cp

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, **_: Any
    ) -> Tensor:
        """Return [s / n, b, heads · size] from queries [s / n, b, heads, size].

        Args:
            key: [s / n, b, groups, size], and so is `value`.
            attention_mask: `own_mask`'s.
        """
        key, value = (
            gather_from_sequence_parallel_region(part, group=self.group) for part in (key, value)
        )
        bias = _bias(attention_mask, query.dtype)
        rows = [
            self._attend(query[:, row], key[:, row], value[:, row], bias[row])
            for row in range(query.size(1))
        ]
        return torch.stack(rows, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return [queries, heads · size] of one row.

        A group's keys serve its heads without being copied: groups are the batch, and stand still.

        Args:
            query: [queries, heads, size].
            key: [keys, groups, size], and so is `value`.
            bias: [1, queries, keys], added to the scores.
        """
        groups = key.size(1)
        by_group = query.unflatten(1, (groups, -1)).permute(1, 2, 0, 3)
        heads = by_group.size(1)
        keys, values = (
            x.transpose(0, 1).unsqueeze(1).expand(-1, heads, -1, -1) for x in (key, value)
        )
        found = scaled_dot_product_attention(
            by_group, keys, values, attn_mask=bias.expand(groups, 1, -1, -1), scale=self.scale
        )
        return found.permute(2, 0, 1, 3).flatten(1)
