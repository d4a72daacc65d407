"""Context parallelism: each sequence is split over ranks, in all layers and in the loss.

Only attention sees other ranks' tokens. It gathers their keys and values, which grouped queries
keep small, and attends from its own queries alone (Llama Team, "The Llama 3 Herd of Models", 2024,
section 3.3.2). Which token may see which is a dense mask, as elsewhere without Transformer Engine.
Where Transformer Engine is installed, its own context parallelism is not used all the same: it
splits every packed document by itself, and takes only lengths that divide by 2 · ranks.

A sequence is cut into 2 · ranks pieces, of which rank r has numbers r and 2 · ranks − 1 − r: as no
piece looks beyond its end, all ranks have as much to attend to. Megatron's rotary embedding deals
positions in the same way; they count through the row, since only distances within a document
matter.

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

    Args:
        position_ids: of whole rows, [b, s]; they start again at every document.
    """
    rank, ranks = _rank_of_ranks()
    keys = torch.arange(position_ids.size(1), device=position_ids.device)
    queries = places_of(rank, ranks, len(keys)).to(keys.device)
    documents = (position_ids == 0).cumsum(dim=1)
    other = documents[:, queries].unsqueeze(2) != documents.unsqueeze(1)
    return (other | (keys > queries.unsqueeze(1))).unsqueeze(1)


def in_order(gathered: Tensor) -> Tensor:
    """Return what ranks had of a row, their parts one after the other, as the row, [s, …]."""
    _, ranks = _rank_of_ranks()
    pieces = gathered.unflatten(0, (ranks, 2, -1))
    return torch.cat([pieces[:, 0], pieces[:, 1].flip(0)]).flatten(0, 1)


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
            in_order(gather_from_sequence_parallel_region(part, group=self.group))
            for part in (key, value)
        )
        bias = _bias(attention_mask, query.dtype)
        rows = [
            self._attend(query[:, row], key[:, row], value[:, row], bias[row])
            for row in range(query.size(1))
        ]
        return torch.stack(rows, dim=1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """Return [s / n, heads · size] of one row; each piece looks no further than its own end.

        Args:
            query: [s / n, heads, size].
            key: [s, groups, size], and so is `value`.
            bias: [1, s / n, s], added to the scores.
        """
        size, rank, ranks = len(query) // 2, self.group.rank(), self.group.size()
        found = []
        for place, piece in enumerate((rank, 2 * ranks - 1 - rank)):
            own, seen = slice(place * size, (place + 1) * size), slice((piece + 1) * size)
            found.append(attend(query[own], key[seen], value[seen], bias[:, own, seen], self.scale))
        return torch.cat(found)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float | None) -> Tensor:
    """Return softmax attention, [queries, heads · size]; without `scale` that of 1 / √size.

    A group's keys serve its heads without being copied: groups stand where rows usually do.

    Args:
        query: [queries, heads, size].
        key: [keys, groups, size], and so is `value`.
        bias: [1, queries, keys], added to the scores.
    """
    groups = key.size(1)
    by_group = query.unflatten(1, (groups, -1)).permute(1, 2, 0, 3)
    shape = (-1, by_group.size(1), -1, -1)
    keys, values = (x.transpose(0, 1).unsqueeze(1).expand(shape) for x in (key, value))
    found = scaled_dot_product_attention(
        by_group, keys, values, attn_mask=bias.expand(groups, 1, -1, -1), scale=scale
    )
    return found.permute(2, 0, 1, 3).flatten(1)
