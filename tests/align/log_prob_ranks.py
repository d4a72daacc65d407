"""Ranks that each hold a slice of the vocabulary; importable by the processes a test spawns."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_bielik.align.log_probs import label_log_probs
from nemo_bielik.distill.fused import OutputLayer

RANKS = 2


def slice_results(rank: int, folder: Path, problem: tuple[Tensor, ...]) -> None:
    """Save this rank's log-probabilities and its parts of both gradients."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    hidden, weight, labels, mask, slopes = problem
    layer = OutputLayer(
        hidden.clone().requires_grad_(), weight.chunk(RANKS)[rank].clone().requires_grad_()
    )
    found = label_log_probs(layer, labels, mask, dist.group.WORLD, chunk_bytes=200)
    (found * slopes[mask != 0]).sum().backward()
    torch.save((found.detach(), layer.hidden.grad, layer.weight.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()
