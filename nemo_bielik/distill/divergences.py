"""What two rows of logits are compared by: divergence and gradient of every token, no autograd.

Shapes: logits are [rows, vocab] or, with a group, this rank's slice [rows, vocab / ranks]. Each
function returns the divergence of every row [rows] and its gradient with respect to the student's
logits, shaped like them, both float32 (float64 stays). p = softmax(teacher), q = softmax(student);
a token that a distribution rules out (logit −inf) adds 0 where that distribution is the weight, and
makes the divergence infinite where only the other one allows it.

This is the one place where losses are computed: `losses.py` applies it to logits, `fused.py` to
logits that exist for a few tokens at a time. Inputs are left as they are.
"""

from collections.abc import Callable

from torch import Tensor

from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.top_k import TopK, spread, to_classes
from nemo_bielik.distill.vocabulary import Group, all_sum, first_id, log_softmax

Divergence = Callable[[Tensor, Tensor, Group, float], tuple[Tensor, Tensor]]


def forward_kl(
    student: Tensor, teacher: Tensor, group: Group = None, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return KL(p ‖ q) = Σ p · (log p − log q) and its gradient q − p; `beta` is not used."""
    log_q, log_p = log_softmax(student, group), log_softmax(teacher, group)
    p = log_p.exp()
    divergence, _ = _expectation(p, log_p.sub_(log_q))
    return all_sum(divergence, group), log_q.exp_().sub_(p)


def reverse_kl(
    student: Tensor, teacher: Tensor, group: Group = None, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return KL(q ‖ p) = Σ q · (log q − log p) and q · (log q − log p − KL); `beta` is not used."""
    log_q, log_p = log_softmax(student, group), log_softmax(teacher, group)
    q = log_q.exp()
    divergence, summands = _expectation(q, log_q.sub_(log_p))
    all_sum(divergence, group)
    return divergence, summands.addcmul_(q, divergence.unsqueeze(-1), value=-1)


def jensen_shannon(
    student: Tensor, teacher: Tensor, group: Group = None, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return β · KL(p ‖ m) + (1 − β) · KL(q ‖ m) with m = β · p + (1 − β) · q.

    The gradient is (1 − β) · q · (log q − log m − KL(q ‖ m)).
    """
    log_q, log_p = log_softmax(student, group), log_softmax(teacher, group)
    p, q = log_p.exp(), log_q.exp()
    log_ratio = log_p.sub_(log_q)
    of_teacher, _ = _expectation(p, _log_mixture(-log_ratio, 1 - beta).neg_())
    of_student, summands = _expectation(q, _log_mixture(log_ratio, beta).neg_())
    divergence = all_sum(of_teacher, group).lerp_(all_sum(of_student, group), 1 - beta)
    gradient = summands.addcmul_(q, of_student.unsqueeze(-1), value=-1)
    return divergence, gradient.mul_(1 - beta)


#: Every divergence by the name that settings use.
DIVERGENCES: dict[str, Divergence] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "jensen-shannon": jensen_shannon,
}


def cross_entropy(student: Tensor, labels: Tensor, group: Group = None) -> tuple[Tensor, Tensor]:
    """Return −log q(label) and its gradient q − (1 at the label); labels are ids [rows]."""
    log_q = log_softmax(student, group)
    columns = labels - first_id(student, group)
    rows = ((columns >= 0) & (columns < student.size(-1))).nonzero().squeeze(-1)
    columns = columns[rows]
    surprise = log_q.new_zeros(len(log_q))
    surprise[rows] = -log_q[rows, columns]
    gradient = log_q.exp_()
    gradient[rows, columns] -= 1
    return all_sum(surprise, group), gradient


def token_losses(
    student: Tensor,
    teacher: Tensor | TopK,
    labels: Tensor | None,
    loss: LossConfig,
    group: Group = None,
) -> tuple[Tensor, Tensor]:
    """Return the loss of every row and its gradient: divergence at T times T², labels mixed in."""
    t = loss.temperature
    softened = student if t == 1 else student / t
    if isinstance(teacher, TopK):
        value, gradient = _over_classes(softened, teacher, loss, group)
    else:
        target = teacher if t == 1 else teacher / t
        value, gradient = DIVERGENCES[loss.divergence](softened, target, group, loss.beta)
    if t != 1:
        value, gradient = value.mul_(t**2), gradient.mul_(t)
    if loss.label_weight:
        assert labels is not None, "the callers see to it that labels are given"
        surprise, slope = cross_entropy(student, labels, group)
        value, gradient = (
            value.lerp_(surprise, loss.label_weight),
            gradient.lerp_(slope, loss.label_weight),
        )
    return value, gradient


def _over_classes(
    student: Tensor, teacher: TopK, loss: LossConfig, group: Group
) -> tuple[Tensor, Tensor]:
    """Compare over the teacher's k tokens and the class of all others; every rank has them all."""
    classes = to_classes(student, teacher, group)
    divergence = DIVERGENCES[loss.divergence]
    value, slopes = divergence(classes.student, classes.teacher, None, loss.beta)
    return value, spread(slopes, classes)


def _expectation(weight: Tensor, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return (Σ over this slice [rows], summands) of weight · log_ratio, in place of the latter.

    Where the weight is 0 the summand is 0, even if the ratio is infinite or undefined.
    """
    summands = log_ratio.mul_(weight)
    total = summands.sum(-1)
    if bool(total.isnan().any()):  # 0 · ∞ of a −inf logit; where a logit is NaN, so is the weight
        total = summands.masked_fill_(weight == 0, 0).sum(-1)
    return total, summands


def _log_mixture(log_ratio: Tensor, share: float) -> Tensor:
    """Return log(1 − share + share · exp(log_ratio)): exactly 0 where the ratio is 1."""
    limit = 60  # exp of more overflows float32, and 1 − share is then lost even in float64
    bounded = log_ratio.clamp(max=limit)
    excess = (log_ratio - limit).clamp_(min=0)
    return bounded.expm1_().mul_(share).log1p_().add_(excess)
