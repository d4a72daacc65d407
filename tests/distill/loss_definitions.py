"""Every loss as its textbook has it: token by token, in float64, with autograd's gradients."""

import torch
from torch import Tensor

from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.top_k import TopK

LOSSES = {
    "forward": LossConfig(),
    "forward at 2": LossConfig(temperature=2.0),
    "reverse": LossConfig(divergence="reverse-kl"),
    "reverse at 3": LossConfig(divergence="reverse-kl", temperature=3.0),
    "jensen-shannon": LossConfig(divergence="jensen-shannon"),
    "jensen-shannon, a fifth, at 0.5": LossConfig(
        divergence="jensen-shannon", beta=0.2, temperature=0.5
    ),
    "labels too, at 2": LossConfig(temperature=2.0, label_weight=0.3),
    "labels too, reverse": LossConfig(divergence="reverse-kl", label_weight=0.6),
}


def kl(first: Tensor, second: Tensor) -> Tensor:
    """Σ first · log(first / second) of two distributions without zeros."""
    return (first * (first / second).log()).sum()


def divergence(p: Tensor, q: Tensor, loss: LossConfig) -> Tensor:
    """The teacher's distribution is p, the student's q."""
    mixture = loss.beta * p + (1 - loss.beta) * q
    return {
        "forward-kl": lambda: kl(p, q),
        "reverse-kl": lambda: kl(q, p),
        "jensen-shannon": lambda: loss.beta * kl(p, mixture) + (1 - loss.beta) * kl(q, mixture),
    }[loss.divergence]()


def by_definition(
    student: Tensor, teacher: Tensor | TopK, mask: Tensor, loss: LossConfig, labels: Tensor
) -> Tensor:
    """Return the summed loss of logits [tokens, vocab] or [batch, sequence, vocab]."""
    total = torch.zeros((), dtype=torch.float64)
    for where in map(tuple, mask.nonzero().tolist()):
        scores = student[where].double()
        q = torch.softmax(scores / loss.temperature, -1)
        if isinstance(teacher, TopK):
            ids, p = teacher.ids[where], teacher.logits[where].double().exp()
            if len(ids) < len(q):
                p = torch.cat([p, 1 - p.sum(-1, keepdim=True)])
                others = torch.ones_like(q).scatter(-1, ids, 0.0)
                q = torch.cat([q[ids], (q * others).sum(-1, keepdim=True)])
            else:
                q = q[ids]
        else:
            p = torch.softmax(teacher[where].double() / loss.temperature, -1)
        surprise = -torch.softmax(scores, -1)[labels[where]].log()
        apart = loss.temperature**2 * divergence(p, q, loss)
        total = total + (1 - loss.label_weight) * apart + loss.label_weight * surprise
    return total
