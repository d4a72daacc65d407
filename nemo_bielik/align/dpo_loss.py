"""DPO-Positive: learn which of two answers is preferred without making the preferred one unlikely.

Pal et al., "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive" (2024), on
Rafailov et al., "Direct Preference Optimization" (2023). DPO rewards a growing gap between the two
answers, which a policy can also widen by making both less likely, the bad one faster. DPO-Positive
takes from the gap what the preferred answer has lost against the reference, so that this pays no
more.

Shapes: [pairs] throughout; a log-probability is the sum over an answer's tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class AnswerLogProbs:
    """log π(answer | prompt) of the preferred and of the other answers, both [pairs]."""

    chosen: Tensor
    rejected: Tensor


def dpo_positive_loss(
    policy: AnswerLogProbs,
    reference: AnswerLogProbs,
    beta: float,
    positive_weight: float,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return Σ_pairs −w · log σ(β · (Δ_chosen − Δ_rejected − λ · max(0, −Δ_chosen))), their number.

    With Δ = log π(answer) − log π_ref(answer). λ = 0 is DPO. The third value holds sums over pairs
    of what is watched: ``margin`` β · (Δ_chosen − Δ_rejected), ``accuracy`` (1 where that is above
    0), ``chosen_reward`` β · Δ_chosen, ``rejected_reward`` likewise, and ``positive_term``
    λ · max(0, −Δ_chosen), whose gradient is 0 at 0: there nothing has fallen.

    Args:
        policy: what is trained; computed in the type it has, float32 at least.
        reference: what training started from; gets no gradient.
        beta: β, how much a nat of either answer counts.
        positive_weight: λ.
        weights: w, [pairs]; 1 if None.
    """
    won, lost = (
        now - before.detach().to(now.dtype)
        for now, before in (
            (policy.chosen, reference.chosen),
            (policy.rejected, reference.rejected),
        )
    )
    positive_term = positive_weight * functional.relu(-won)
    losses = -functional.logsigmoid(beta * (won - lost - positive_term))
    if weights is not None:
        losses = losses * weights
    margin = beta * (won - lost).detach()
    watched = {
        "margin": margin,
        "accuracy": (margin > 0).to(margin.dtype),
        "chosen_reward": beta * won.detach(),
        "rejected_reward": beta * lost.detach(),
        "positive_term": positive_term.detach(),
    }
    count = torch.tensor(len(losses), device=losses.device)
    return losses.sum(), count, {name: values.sum() for name, values in watched.items()}
