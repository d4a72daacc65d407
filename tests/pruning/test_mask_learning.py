"""Masks learned on losses whose best answer is known, without an engine."""

import pytest
import torch

from nemo_bielik.arch import ModelArch
from nemo_bielik.pruning.hard_concrete import open_probability
from nemo_bielik.pruning.mask_learning import MaskLearner
from nemo_bielik.pruning.shearing import ShearingConfig, target_shape
from nemo_bielik.shape import Shape

ARCH = ModelArch(
    name="toy",
    vocab_size=8,
    hidden_size=12,
    ffn_hidden_size=10,
    num_layers=4,
    num_attention_heads=6,
    num_query_groups=2,
    head_dim=2,
)
SHAPE = Shape(
    num_layers=3, hidden_size=9, ffn_hidden_size=4, num_attention_heads=2, num_query_groups=1
)
STEPS = 200


def make_learner(**changes: float) -> MaskLearner:
    config = ShearingConfig(**{"iters": STEPS, "mask_lr": 0.1} | changes)
    return MaskLearner(config, ARCH, target_shape(ARCH, SHAPE))


def worth(learner: MaskLearner) -> dict[str, torch.Tensor]:
    """What an open unit takes off the loss: something for as many last ones as may stay."""
    found = {name: torch.zeros_like(x) for name, x in learner.log_alpha.items()}
    for name, (_, kept) in learner.counts.items():
        found[name][..., -kept:] = 1.0
    return found


def advance(learner: MaskLearner, steps: int) -> None:
    """Learn under the loss −Σ worth · z."""
    slopes = {name: -value for name, value in worth(learner).items()}
    for _ in range(steps):
        learner.learn(learner.draw(seed=1), slopes)


def test_the_learned_shape_meets_every_size_and_keeps_what_is_worth_most():
    learner = make_learner()
    assert not learner.settled()
    advance(learner, STEPS)
    assert learner.settled()
    for name, worths in worth(learner).items():
        log_alpha = learner.log_alpha[name].detach()
        kept = learner.counts[name][1]
        assert torch.all(open_probability(log_alpha).sum(-1).round() == kept), name
        assert torch.equal(log_alpha > 0, worths == 1), name  # E[z] above ½
    assert learner.worst_excess() < 0.05


def test_a_loss_that_prefers_nothing_still_meets_the_shape():
    learner = make_learner()
    zero = {name: torch.zeros_like(x) for name, x in learner.log_alpha.items()}
    for _ in range(STEPS):
        learner.learn(learner.draw(seed=1), zero)
    assert learner.worst_excess() < 0.05


def test_draws_follow_from_seed_and_step_alone():
    learner, other = make_learner(), make_learner()
    first = learner.draw(seed=1)
    assert all(torch.equal(first[name], x) for name, x in other.draw(seed=1).items())
    assert not torch.equal(first["ffn"], learner.draw(seed=2)["ffn"])
    learner.step = 1
    assert not torch.equal(first["ffn"], learner.draw(seed=1)["ffn"])
    assert first["hidden"][:4].tolist() != first["layers"].tolist()  # each kind its own noise


@pytest.mark.parametrize("stop", [1, 40])
def test_a_restored_learner_goes_on_with_the_same_numbers(stop):
    undisturbed, first = make_learner(), make_learner()
    advance(undisturbed, 60)
    advance(first, stop)
    again = make_learner()
    again.restore(first.state(), stop)
    advance(again, 60 - stop)
    for (name, found), expected in zip(
        again.state().items(), undisturbed.state().values(), strict=True
    ):
        assert (found == expected).all(), name
