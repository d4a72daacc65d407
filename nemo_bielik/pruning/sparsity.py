"""How many single weights go, and which: a share of them, or n of every m kept.

Scores are [out, in], one a weight, higher is kept; masks are boolean of the same shape, True where
a weight stays. Ties are broken by place: of equal scores the one with the lower index stays.

Ranking takes up to 24 bytes a weight, so matrices pass in parts of `PART_WEIGHTS` (`zero_rows`).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nemo_bielik.arch import ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.parameters import is_linear
from nemo_bielik.tensors import TensorRow, tensor_rows

if TYPE_CHECKING:
    from torch import Tensor

#: Weights that are ranked at a time, in about 50 MB.
PART_WEIGHTS = 1 << 21


@dataclass(frozen=True)
class Sparsity:
    """A share of zeros anywhere, or a pattern: `n` of every `m` consecutive inputs are kept.

    Attributes:
        ratio: share of zeros; with a pattern 1 − n / m.
        n: weights kept of every `m`; 0 without a pattern.
        m: size of a group; 0 without a pattern.
    """

    ratio: float
    n: int = 0
    m: int = 0

    @classmethod
    def parse(cls, sparsity: float | None, pattern: str = "") -> "Sparsity":
        """Read the settings; a pattern decides alone. Raises `ConfigError` for an impossible one.

        ``"2:4"`` keeps 2 of every 4 weights, ``"4:8"`` 4 of every 8.
        """
        if pattern:
            match = re.fullmatch(r"(\d+):(\d+)", pattern)
            n, m = (int(match[1]), int(match[2])) if match else (0, 0)
            if not 0 < n < m:
                raise ConfigError(
                    f"pattern is {pattern!r}; it must be n:m with n of every m weights kept and n "
                    "between 1 and m - 1, e.g. 2:4"
                )
            return cls(1 - n / m, n, m)
        if sparsity is None or not 0 < sparsity < 1:
            raise ConfigError(
                f"sparsity is {sparsity}; it must be above 0 and below 1, e.g. 0.5 zeroes half of "
                "the weights"
            )
        return cls(sparsity)

    def require_fit(self, arch: ModelArch) -> None:
        """Raise `ConfigError` unless every projection of `arch` divides into groups of `m`."""
        for row in projections(arch) if self.m else ():
            if row.shape[1] % self.m:
                raise ConfigError(
                    f"pattern {self.n}:{self.m} does not fit {row.name}: its {row.shape[1]} inputs "
                    f"are no multiple of {self.m}; choose a pattern whose second number divides "
                    f"{row.shape[1]}, or give a sparsity"
                )

    def zeros(self, count: int) -> int:
        """Return how many of `count` weights become zero: the ratio's share, rounded to nearest."""
        return round(self.ratio * count)

    def keep_in_rows(self, scores: "Tensor") -> "Tensor":
        """Return the mask in which weights compete within their output row, or within its groups.

        Every row has exactly `zeros(in)` False, every group of a pattern exactly m − n.
        """
        if self.m:
            return keep_largest(scores.reshape(-1, self.m), self.n).view(scores.shape)
        return keep_largest(scores, scores.size(1) - self.zeros(scores.size(1)))

    def keep_in_tensor(self, scores: "Tensor") -> "Tensor":
        """Return the mask in which all weights of a matrix compete, or those of a group.

        Exactly `zeros(out · in)` are False, or m − n of every group of a pattern. It takes 24 bytes
        a weight, which suits SparseGPT's blocks; `magnitude` cuts whole matrices in less.
        """
        if self.m:
            return self.keep_in_rows(scores)
        kept = scores.numel() - self.zeros(scores.numel())
        return keep_largest(scores.reshape(1, -1), kept).view(scores.shape)


def projections(arch: ModelArch) -> list[TensorRow]:
    """Return the matrices whose weights are zeroed, [out, in]: seven in every layer."""
    return [row for row in tensor_rows(arch) if is_linear(row)]


def zero_rows(weight: "Tensor", keep: "Callable[[Tensor], Tensor]") -> "Tensor":
    """Return `weight` [out, in] with zeros where `keep` of its rows, a few at a time, is False.

    Rows come in order; the memory beyond the result is that of one part.
    """
    import torch

    result = torch.empty_like(weight)
    for rows, target in zip(row_parts(weight), row_parts(result), strict=True):
        target.copy_(rows).masked_fill_(~keep(rows), 0)
    return result


def row_parts(weight: "Tensor") -> "Iterator[Tensor]":
    """Yield `weight` [out, in] in order as rows of together `PART_WEIGHTS`, but at least one."""
    import torch

    yield from torch.split(weight, max(1, PART_WEIGHTS // weight.size(1)))


def keep_largest(scores: "Tensor", kept: int) -> "Tensor":
    """Return a mask of `scores` [rows, n] with the `kept` largest of every row True."""
    import torch

    if not 0 < kept < scores.size(1):
        return torch.full_like(scores, kept > 0, dtype=torch.bool)
    threshold = scores.kthvalue(scores.size(1) - kept + 1, dim=1, keepdim=True).values
    above = scores > threshold
    return above | first_ties(scores == threshold, kept - above.sum(dim=1, keepdim=True))


def first_ties(ties: "Tensor", allowed: "Tensor | int") -> "Tensor":
    """Return `ties` [rows, n] with only the first `allowed` True of every row left."""
    import torch

    return ties & (ties.cumsum(dim=1, dtype=torch.int32) <= allowed)
