"""Where the divergence from a teacher lies: the KL split by classes of tokens.

A flat curve can mean that little is left to learn, or that what is learned on easy tokens hides
what is not on hard ones. So every counted token belongs to three classes: all tokens; a bin of its
teacher's entropy H; and whether student and teacher name the same likeliest token. exp(H) is the
number of equally likely tokens that would be as uncertain, which chooses the edges: 0.1, 0.7, 1.6
and 3.0 nats are 1.1, 2, 5 and 20 of them. Below 0.1 nothing is left open (the rest of a word);
below 0.7 it is a choice between two, below 1.6 among a handful (an ending), below 3.0 among words
of one kind; above, the text could go on in any way.

The KL is KL(teacher ‖ student) at T = 1 whatever the loss is, so that runs with different losses
compare. Of a `TopK` teacher entropy and KL are those of its k + 1 classes, never more than the
whole vocabulary's, and at the temperature that it was made at: no other is known.

Shapes are those of `fused.py`; a token's mask is not 0 where it counts.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from nemo_bielik.distill.divergences import forward_kl
from nemo_bielik.distill.fused import OutputLayer, logits_in_chunks
from nemo_bielik.distill.losses import counted_tokens
from nemo_bielik.distill.top_k import TopK, to_classes
from nemo_bielik.distill.vocabulary import (
    Group,
    all_maximum,
    all_sum,
    first_id,
    log_softmax,
    ranks_of,
    wide,
)

#: Edges of the teacher's entropy in nats; a bin holds its lower edge and not its upper one.
ENTROPY_EDGES = (0.1, 0.7, 1.6, 3.0)
AGREES, DISAGREES = "same top token", "another top token"
#: Every class, in the order of the rows of `class_sums`.
CLASSES = (
    "all",
    f"entropy below {ENTROPY_EDGES[0]}",
    *(f"entropy {low} to {high}" for low, high in pairwise(ENTROPY_EDGES)),
    f"entropy from {ENTROPY_EDGES[-1]}",
    AGREES,
    DISAGREES,
)
#: The columns of `class_sums`: tokens, and what is summed over them.
FIGURES = ("tokens", "kl", "entropy", "agreement")
#: Where a log holds how many tokens a report has.
_TOKENS = "tokens"


def class_sums(
    student: OutputLayer,
    teacher: OutputLayer | TopK,
    mask: Tensor,
    group: Group = None,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Return a row of sums for each of `CLASSES`, [classes, len(FIGURES)], float64.

    Logits exist for a few tokens at a time; with a group every rank gets the same sums.

    Args:
        student: hidden states [..., h] and weight [vocab / ranks, h].
        teacher: likewise, or what a cache knows.
        mask: [...].
        group: ranks that each hold a slice of the vocabulary.
        temperature: that a `TopK` was made at; the student is compared at the same.
        chunk_bytes: logits of both models that exist at once; beside them up to about four times
            as much is needed.
    """
    counted = counted_tokens(mask)
    student, teacher = student.flat().rows(counted), teacher.flat().rows(counted)
    sums = torch.zeros(len(CLASSES), len(FIGURES), dtype=torch.float64, device=mask.device)
    for _, logits, target in logits_in_chunks(student, teacher, chunk_bytes):
        if temperature != 1:
            logits = logits / temperature
        kl, entropy, agrees = compare(logits, target, group)
        figures = torch.stack([torch.ones_like(kl), kl, entropy, agrees.to(kl)], -1).double()
        edges = torch.tensor(ENTROPY_EDGES, dtype=entropy.dtype, device=entropy.device)
        bins = torch.bucketize(entropy, edges, right=True)
        sums[0] += figures.sum(0)
        sums.index_add_(0, 1 + bins, figures)
        sums.index_add_(0, len(CLASSES) - 2 + (~agrees).long(), figures)
    return sums


def compare(
    student: Tensor, teacher: Tensor | TopK, group: Group = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return of every row KL(teacher ‖ student), the teacher's entropy, and whether both agree.

    Both in nats, [rows], float32 (float64 stays). They agree if the same token is the likeliest; of
    several equally likely ones the first id counts.

    Args:
        student: logits [rows, vocab / ranks].
        teacher: logits likewise, or a `TopK` of [rows, k].
    """
    if isinstance(teacher, TopK):
        classes = to_classes(student, teacher, group)
        kl, _ = forward_kl(classes.student, classes.teacher)
        entropy = _entropy(classes.teacher, None)
        likeliest = teacher.ids.gather(-1, teacher.logits.argmax(-1, keepdim=True)).squeeze(-1)
    else:
        kl, _ = forward_kl(student, teacher, group)
        entropy, likeliest = _entropy(teacher, group), _likeliest(teacher, group)
    return kl, entropy, likeliest == _likeliest(student, group)


def as_log(sums: Tensor) -> dict[str, Tensor]:
    """Return what Bridge adds up over ranks and micro-batches: (sum, count) pairs by name, float32.

    Counts are exact up to 2²⁴ tokens a validation.
    """
    tokens = sums[:, 0]
    log = {_TOKENS: torch.stack([tokens[0], torch.ones_like(tokens[0])])}
    for row, name in enumerate(CLASSES):
        log[f"{_TOKENS}/{name}"] = torch.stack([tokens[row], tokens[0]])
        for column, figure in enumerate(FIGURES[1:], start=1):
            log[f"{figure}/{name}"] = torch.stack([sums[row, column], tokens[row]])
    return {name: pair.float() for name, pair in log.items()}


def from_log(means: Mapping[str, Tensor], reports: int) -> dict[str, dict[str, float]]:
    """Return the figures of every class that has tokens; nothing if the log is not `as_log`'s.

    A class has its tokens, their share, and the means of KL, the teacher's entropy (nats) and the
    agreement (0 to 1).

    Args:
        means: sum / count of every pair that `as_log` named.
        reports: whose pairs were added up, one a micro-batch and context rank.
    """
    if _TOKENS not in means:
        return {}
    tokens = round(float(means[_TOKENS]) * reports)
    table = {}
    for name in CLASSES:
        share = float(means[f"{_TOKENS}/{name}"])
        if share > 0 and math.isfinite(share):
            values = {figure: float(means[f"{figure}/{name}"]) for figure in FIGURES[1:]}
            table[name] = {"tokens": round(share * tokens), "share": share, **values}
    return table


def _entropy(logits: Tensor, group: Group) -> Tensor:
    probabilities = log_softmax(logits, group).exp_()
    return all_sum(torch.special.entr(probabilities).sum(-1), group)


def _likeliest(logits: Tensor, group: Group) -> Tensor:
    """Return the first id of the largest logit of every row, of the whole vocabulary."""
    largest, ids = logits.max(-1)
    if ranks_of(group) == 1:
        return ids
    ids = ids + first_id(logits, group)
    largest = largest.to(wide(largest))
    everywhere = all_maximum(largest.clone(), group)
    beyond = logits.size(-1) * ranks_of(group)
    return -all_maximum(-torch.where(largest == everywhere, ids, beyond), group)
