"""A teacher of which only the k likeliest tokens are known: what a cache on disk can hold.

Shapes: ids and logits [..., k], remainder [...]; logits of the student [rows, vocab / ranks].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nemo_bielik.distill.vocabulary import (
    Group,
    all_sum,
    first_id,
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
    them. `top_k` computes both from logits. Without it only the stored T is exact.

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
    """Return what a cache stores for logits [..., vocab]: log-probabilities at T, k + 1 a token."""
    softened = teacher_logits.to(wide(teacher_logits)) / temperature
    log_p = torch.log_softmax(softened, -1)
    largest = log_p.topk(k, sorted=True)
    others = log_p.scatter_(-1, largest.indices, -torch.inf)
    return TopK(largest.indices, largest.values, others.logsumexp(-1))


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
    columns = teacher.ids - first_id(student, group)
    rows, slots = ((columns >= 0) & (columns < student.size(-1))).nonzero(as_tuple=True)
    columns = columns[rows, slots]
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
