"""The loss of DPO-Positive against its paper, by hand, and against TRL's."""

import math
from types import SimpleNamespace

import pytest
import torch

from nemo_bielik.align.dpo_loss import AnswerLogProbs, dpo_positive_loss

#: Four pairs: the policy has gained, kept, lost a little, lost much of the chosen answer.
POLICY = ([-10.0, -12.0, -14.5, -30.0], [-11.0, -15.0, -9.0, -42.0])
REFERENCE = ([-12.0, -12.0, -14.0, -20.0], [-10.0, -15.0, -9.0, -21.0])
FALLEN = torch.tensor([False, False, True, True])


def answers(values, grad=False):
    return AnswerLogProbs(
        *(torch.tensor(x, dtype=torch.float64, requires_grad=grad) for x in values)
    )


def by_the_paper(beta: float, positive_weight: float) -> list[float]:
    """Its equation, pair by pair, in plain Python."""
    losses = []
    for chosen, rejected, ref_chosen, ref_rejected in zip(*POLICY, *REFERENCE, strict=True):
        fallen = max(0.0, ref_chosen - chosen)
        gap = (chosen - ref_chosen) - (rejected - ref_rejected) - positive_weight * fallen
        losses.append(math.log1p(math.exp(-beta * gap)))  # -log sigmoid
    return losses


@pytest.mark.parametrize(("beta", "positive_weight"), [(0.1, 0.0), (0.3, 5.0), (0.1, 50.0)])
def test_it_is_the_papers_equation(beta: float, positive_weight: float) -> None:
    expected = by_the_paper(beta, positive_weight)
    total, count, _ = dpo_positive_loss(answers(POLICY), answers(REFERENCE), beta, positive_weight)
    assert count == 4 and total.item() == pytest.approx(sum(expected), rel=1e-12)
    weights = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
    total, count, _ = dpo_positive_loss(
        answers(POLICY), answers(REFERENCE), beta, positive_weight, weights
    )
    weighted = sum(w * loss for w, loss in zip(weights.tolist(), expected, strict=True))
    assert count == 4 and total.item() == pytest.approx(weighted, rel=1e-12)


@pytest.mark.parametrize("beta", [0.05, 0.4])
def test_without_the_positive_term_it_is_trls_dpo(beta: float) -> None:
    pytest.importorskip("trl", reason="TRL is not installed here")
    from trl.trainer.dpo_trainer import DPOTrainer, FDivergenceType

    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        reference_free=False,
        f_divergence_type=FDivergenceType.REVERSE_KL,
        f_divergence_params=None,
        beta=beta,
        label_smoothing=0.0,
    )
    policy, reference = answers(POLICY, grad=True), answers(REFERENCE)
    losses, chosen_rewards, rejected_rewards = DPOTrainer.dpo_loss(
        trainer, policy.chosen, policy.rejected, reference.chosen, reference.rejected
    )
    theirs = torch.autograd.grad(losses.sum(), (policy.chosen, policy.rejected))
    total, _, watched = dpo_positive_loss(policy, reference, beta, 0.0)
    ours = torch.autograd.grad(total, (policy.chosen, policy.rejected))
    torch.testing.assert_close(total, losses.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)
    assert watched["chosen_reward"].item() == pytest.approx(chosen_rewards.sum().item())
    assert watched["rejected_reward"].item() == pytest.approx(rejected_rewards.sum().item())


def test_the_positive_term_is_zero_where_the_chosen_answer_has_not_fallen() -> None:
    for pair, fallen in enumerate(FALLEN.tolist()):
        policy, reference = (
            AnswerLogProbs(x.chosen[[pair]], x.rejected[[pair]])
            for x in (answers(POLICY), answers(REFERENCE))
        )
        plain = dpo_positive_loss(policy, reference, 0.1, 0.0)[0]
        total, _, watched = dpo_positive_loss(policy, reference, 0.1, 50.0)
        assert (watched["positive_term"].item() > 0) == fallen
        assert (total.item() > plain.item()) == fallen


def test_its_gradient_raises_the_chosen_answer_where_it_has_fallen() -> None:
    """There ∂gap/∂chosen is 1 + λ in place of 1; the rejected answer's is −1 as in DPO."""
    policy, reference = answers(POLICY, grad=True), answers(REFERENCE)
    total, _, _ = dpo_positive_loss(policy, reference, 0.1, 50.0)
    chosen, rejected = torch.autograd.grad(total, (policy.chosen, policy.rejected))
    assert (chosen < 0).all() and (rejected > 0).all()  # descent raises the one, lowers the other
    expected = torch.where(FALLEN, 51.0, 1.0).double()
    torch.testing.assert_close(-chosen / rejected, expected, rtol=1e-12, atol=0)


def test_the_reference_gets_no_gradient_and_figures_are_sums_over_pairs() -> None:
    policy, reference = answers(POLICY, grad=True), answers(REFERENCE, grad=True)
    total, _, watched = dpo_positive_loss(policy, reference, 0.5, 2.0)
    total.backward()
    assert reference.chosen.grad is None and reference.rejected.grad is None
    found = {name: value.item() for name, value in watched.items()}
    # by hand: gains of the chosen 2, 0, −0.5, −10, of the rejected −1, 0, 0, −21
    assert found == {
        "margin": 0.5 * (3 + 0 - 0.5 + 11),
        "accuracy": 2,
        "chosen_reward": 0.5 * -8.5,
        "rejected_reward": 0.5 * -22,
        "positive_term": 2 * 10.5,
    }
