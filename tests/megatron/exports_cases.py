"""Functions for the lanes: Megatron's checkpoints read without Megatron's own loader."""

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor


def read_tensors(checkpoint: Path, names: list[str]) -> dict[str, Tensor]:
    """Return tensors of a checkpoint as torch's distributed format holds them."""
    reader = dcp.FileSystemReader(checkpoint)
    known = reader.read_metadata().state_dict_metadata
    state = {name: torch.empty(known[name].size) for name in names}
    dcp.load(state, storage_reader=dcp.FileSystemReader(checkpoint), no_dist=True)
    return state
