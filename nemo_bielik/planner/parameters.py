"""Exact parameter counts, summed over the one table of tensors.

The report's Table 2 counts one embedding matrix, while an untied checkpoint holds two (the input
embedding and the output projection): both counts are given and never mixed.
"""

from functools import lru_cache

from nemo_bielik.arch import ModelArch
from nemo_bielik.tensors import TensorRow, tensor_rows

INPUT_EMBEDDING = "model.embed_tokens.weight"
OUTPUT_PROJECTION = "lm_head.weight"


@lru_cache(maxsize=64)
def rows(arch: ModelArch) -> tuple[TensorRow, ...]:
    """Return the tensors of `arch`, laid out once however often they are summed."""
    return tuple(tensor_rows(arch))


def count_parameters(arch: ModelArch) -> int:
    """Return the elements of every tensor that a checkpoint of `arch` holds."""
    return sum(row.numel for row in rows(arch))


def count_one_embedding(arch: ModelArch) -> int:
    """Return the report's count: tied or not, one embedding matrix."""
    return sum(row.numel for row in rows(arch) if row.name != OUTPUT_PROJECTION)


def is_linear(row: TensorRow) -> bool:
    """Whether `row` is the weight of a linear layer inside the transformer blocks."""
    return row.layer is not None and len(row.shape) == 2


def reduction_percent(source: ModelArch, candidate: ModelArch) -> float:
    """Return by how many percent `candidate` is smaller than `source`, by the report's count."""
    return 100 * (1 - count_one_embedding(candidate) / count_one_embedding(source))
