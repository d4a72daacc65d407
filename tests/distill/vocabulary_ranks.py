"""Ranks that each hold a slice of the vocabulary; importable by the processes a test spawns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_bielik.distill.fused import OutputLayer, fused_loss
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.losses import distillation_loss
from nemo_bielik.distill.token_classes import class_sums, compare
from nemo_bielik.distill.top_k import TopK, top_k

WORLD = 4
CHUNK_BYTES = 1  # a token at a time


class Gathered(torch.autograd.Function):
    """What sequence parallelism does: gather tokens, sum and scatter their gradients."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, mine, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total.chunk(dist.get_world_size(ctx.group))[dist.get_rank(ctx.group)], None


def every_loss(rank: int, folder: Path, problem: dict[str, Any], losses: list[LossConfig]) -> None:
    """Save what this rank of two groups, of 4 and of 2 ranks, finds for every loss and teacher."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    pairs = [dist.new_group(list(members)) for members in ((0, 1), (2, 3))]
    found = {}
    for ranks, group in ((WORLD, dist.group.WORLD), (2, pairs[rank // 2])):
        for number, loss in enumerate(losses):
            for k in (None, 3):
                found[ranks, number, k] = slice_results(problem, loss, k, group)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def slice_results(
    problem: dict[str, Any], loss: LossConfig, k: int | None, group: dist.ProcessGroup
) -> dict[str, Any]:
    """Return value, count and gradients of this rank's slice: dense, fused, sequence-parallel."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    student, teacher = problem["student"], problem["teacher"]
    mask, labels = problem["mask"], problem["labels"]
    weight = student.weight.chunk(ranks)[rank].clone().requires_grad_()
    theirs = replace(teacher, weight=teacher.weight.chunk(ranks)[rank])
    logits = (student.hidden @ weight.detach().t()).requires_grad_()
    target = theirs.hidden @ theirs.weight.t()
    if k is not None:
        whole = teacher.hidden @ teacher.weight.t()
        theirs = target = top_k(whole, k, loss.temperature)
    total, count = distillation_loss(logits, target, mask, loss, labels, group)
    total.backward()
    found = {"dense": (total.detach(), count, logits.grad)}
    for name, tokens in (("fused", None), ("split", student.hidden.chunk(ranks)[rank])):
        mine = (student.hidden if tokens is None else tokens).clone().requires_grad_()
        hidden = mine if tokens is None else Gathered.apply(mine, group)
        layer = OutputLayer(hidden, weight)
        total, count = fused_loss(layer, theirs, mask, loss, labels, group, CHUNK_BYTES)
        weight.grad = None
        total.backward()
        found[name] = (total.detach(), count, mine.grad, weight.grad)
    return found


def token_classes(
    rank: int,
    folder: Path,
    student: OutputLayer,
    teacher: OutputLayer,
    mask: Tensor,
    tie: Tensor,
    known: TopK,
) -> None:
    """Save what this rank of two finds of a live and a cached teacher, and of a tie."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    group = dist.group.WORLD
    cached = top_k(teacher.hidden @ teacher.weight.t(), 4)
    mine, theirs = (
        replace(layer, weight=layer.weight.chunk(2)[rank]) for layer in (student, teacher)
    )
    found = [class_sums(mine, source, mask, group) for source in (theirs, cached)]
    agrees = compare(tie.chunk(2, -1)[rank], known, group)[2]
    torch.save((*found, agrees), folder / f"{rank}.pt")
    dist.destroy_process_group()
