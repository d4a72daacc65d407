"""Ranks that each hold a slice of the vocabulary; importable by the processes a test spawns."""

from pathlib import Path

import torch
import torch.distributed as dist

from nemo_bielik.distill.losses import forward_kl

Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]


def slice_losses(rank: int, ranks: int, folder: Path, problems: list[Problem]) -> None:
    """Save value, count and gradient of each loss over this rank's slice of the vocabulary."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks
    )
    found = []
    for student, teacher, mask, temperature in problems:
        mine = student.chunk(ranks, dim=-1)[rank].clone().requires_grad_()
        theirs = teacher.chunk(ranks, dim=-1)[rank]
        total, count = forward_kl(mine, theirs, mask, temperature, dist.group.WORLD)
        total.backward()
        found.append((total.detach(), count, mine.grad))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
