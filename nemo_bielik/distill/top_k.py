"""A teacher of which only the k likeliest tokens are known: what a cache on disk can hold.

Shapes: ids and logits [..., k], remainder [...]; logits of the student [rows, vocab / ranks].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from nemo_bielik.distill.vocabulary import (
    Group,
    all_sum,
    first_id,
    log_softmax,
    ranks_of,
    softmax_and_normaliser,
    wide,
)


@dataclass(frozen=True)
class TopK:
    """The teacher's k likeliest tokens of every position, and one class for all others.

    The divergence is taken over k + 1 classes: k tokens and "any other", whose probability is the
    sum of the others' in teacher and student alike. It never exceeds the divergence over the whole
    vocabulary (merging classes loses information) and equals it for k = V, where no others exist.

    Temperature: the distribution here is the one at the loss's T. From log-probabilities l stored
    at T = 1 the tokens' logits at T are exactly l / T, but the others' sum is not known: it needs
    R_T = log Σ_others exp(l / T), one more number for each position and T, to be stored beside
    them. `likeliest` computes both from logits. Without it only the stored T is exact.

    Args:
        ids: [..., k] different token ids of the whole vocabulary, in any order.
        logits: [..., k] their log-probabilities at T, or these up to a constant per position if
            `remainder` is given.
        remainder: [...] log of the others' summed exp(logits); None: log(1 − Σ exp(logits)), which
            asks for log-probabilities and loses digits where they are stored narrow and their sum
            is close to 1. Not used if k = V.
    """

    ids: Tensor
    logits: Tensor
    remainder: Tensor | None = None

    def log_remainder(self) -> Tensor:
        """Return the logit [...] of all other tokens together."""
        if self.remainder is not None:
            return self.remainder
        known = self.logits.to(wide(self.logits)).logsumexp(-1).clamp_(max=0)
        return known.expm1_().neg_().log_()

    def rows(self, where: Tensor | slice) -> "TopK":
        """Return some positions of a teacher whose shapes are [positions, k]."""
        remainder = None if self.remainder is None else self.remainder[where]
        return TopK(self.ids[where], self.logits[where], remainder)

    def flat(self) -> "TopK":
        """Return the same positions in one dimension."""
        remainder = None if self.remainder is None else self.remainder.reshape(-1)
        shape = (-1, self.ids.size(-1))
        return TopK(self.ids.reshape(shape), self.logits.reshape(shape), remainder)


def top_k(teacher_logits: Tensor, k: int, temperature: float = 1.0) -> TopK:
    """Return the teacher of logits [..., vocab] at T, by its k likeliest tokens."""
    ids, log_p, remainders = likeliest(teacher_logits.flatten(0, -2) / temperature, k, [1.0])
    shape = (*teacher_logits.shape[:-1], k)
    return TopK(ids.view(shape), log_p.view(shape), remainders[:, 0].view(shape[:-1]))


def likeliest(
    logits: Tensor, k: int, temperatures: Sequence[float], group: Group = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a cache stores for the rows of logits [rows, vocab / ranks], on every rank.

    Each rank picks from its slice, then all pick from what the ranks found; no rank needs more than
    ranks · k columns of the others'.

    Returns:
        ids [rows, k] of the k likeliest tokens, likeliest first; their log-probabilities l [rows,
        k] at T = 1; and R_T = log Σ_others exp(l / T) [rows, temperatures]. −inf if k = V.
    """
    log_p = log_softmax(logits, group)
    values, ids = log_p.topk(min(k, log_p.size(-1)))
    ids += first_id(log_p, group)
    if ranks_of(group) > 1:
        values, chosen = _gathered(values, group).topk(k)
        ids = _gathered(ids, group).gather(-1, chosen)
    rows, _, columns = _own(ids, log_p, group)
    log_p[rows, columns] = -torch.inf
    remainders = [softmax_and_normaliser(log_p / t, group)[1] for t in temperatures]
    return ids, values, torch.stack(remainders, -1)


def _gathered(part: Tensor, group: Group) -> Tensor:
    """Return the columns [rows, ranks · k] of all ranks."""
    parts = [torch.empty_like(part) for _ in range(ranks_of(group))]
    dist.all_gather(parts, part.contiguous(), group=group)
    return torch.cat(parts, -1)


def _own(ids: Tensor, logits: Tensor, group: Group) -> tuple[Tensor, Tensor, Tensor]:
    """Return row, slot and column of those of the tokens ids [rows, k] that this slice holds."""
    columns = ids - first_id(logits, group)
    rows, slots = ((columns >= 0) & (columns < logits.size(-1))).nonzero(as_tuple=True)
    return rows, slots, columns[rows, slots]


@dataclass(frozen=True)
class Classes:
    """Logits [rows, k + 1] of both models over k tokens and the others ([rows, k] if k = V).

    `shares` [rows, vocab / ranks] are the student's probabilities within the others (0 for the k
    tokens); `rows`, `slots` and `columns` say which of the k tokens this rank's slice holds.
    """

    student: Tensor
    teacher: Tensor
    shares: Tensor
    rows: Tensor
    slots: Tensor
    columns: Tensor


def to_classes(student: Tensor, teacher: TopK, group: Group) -> Classes:
    """Merge the student's other tokens into one class; its logit is their log Σ exp."""
    rows, slots, columns = _own(teacher.ids, student, group)
    others = student.to(wide(student), copy=True)
    known = others.new_zeros(teacher.ids.shape)
    known[rows, slots] = others[rows, columns]
    others[rows, columns] = -torch.inf
    shares, normaliser = softmax_and_normaliser(others, group)
    student_logits, teacher_logits = all_sum(known, group), teacher.logits.to(known)
    if teacher.ids.size(-1) < student.size(-1) * ranks_of(group):
        student_logits = torch.cat([student_logits, normaliser.unsqueeze(-1)], -1)
        remainder = teacher.log_remainder().to(known).unsqueeze(-1)
        teacher_logits = torch.cat([teacher_logits, remainder], -1)
    return Classes(student_logits, teacher_logits, shares, rows, slots, columns)


def spread(slopes: Tensor, classes: Classes) -> Tensor:
    """Return the gradient [rows, vocab / ranks] for one with respect to the classes' logits."""
    gradient = classes.shares * slopes[:, -1:]
    gradient[classes.rows, classes.columns] = slopes[classes.rows, classes.slots]
    return gradient
