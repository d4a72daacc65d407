"""A cached teacher: k tokens and one class for the others."""

import math

import pytest
import torch
from loss_definitions import LOSSES

from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.losses import distillation_loss
from nemo_bielik.distill.top_k import TopK, likeliest, top_k

TOKENS, VOCABULARY = 6, 11
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


@pytest.fixture
def student():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(TOKENS, VOCABULARY, generator=generator, dtype=torch.float64)
    return (2 * logits).requires_grad_()


@pytest.fixture
def teacher():
    generator = torch.Generator().manual_seed(2)
    return 2 * torch.randn(TOKENS, VOCABULARY, generator=generator, dtype=torch.float64)


MASK = torch.tensor([1, 1, 0, 1, 1, 1])
LABELS = torch.arange(TOKENS)


def value_and_gradient(student, teacher, loss):
    total, _ = distillation_loss(student, teacher, MASK, loss, LABELS)
    return total.detach(), torch.autograd.grad(total, student)[0]


@every_loss
def test_all_tokens_known_is_the_whole_loss(student, teacher, loss):
    known = top_k(teacher, VOCABULARY, loss.temperature)
    assert (known.ids.sort().values == torch.arange(VOCABULARY)).all()
    found = value_and_gradient(student, known, loss)
    for one, other in zip(found, value_and_gradient(student, teacher, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_what_is_stored_is_the_distribution_at_the_temperature(teacher):
    p = torch.softmax(teacher / 2.0, -1)
    known = top_k(teacher, 4, 2.0)
    largest = p.sort(descending=True)
    assert torch.equal(known.ids, largest.indices[:, :4])
    torch.testing.assert_close(known.logits.exp(), largest.values[:, :4])
    torch.testing.assert_close(known.remainder.exp(), largest.values[:, 4:].sum(-1))


@every_loss
def test_the_remainder_is_what_is_left_of_one(student, teacher, loss):
    known = top_k(teacher, 4, loss.temperature)
    without = TopK(known.ids, known.logits)
    found = value_and_gradient(student, without, loss)
    for one, other in zip(found, value_and_gradient(student, known, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_one_token_of_three_by_hand():
    """Teacher (1/2, 1/4, 1/4) of which one is known, student (1/4, 1/4, 1/2): two classes.

    KL = 1/2·ln 2 + 1/2·ln(2/3). The gradient is q − p for the known token, and for the others their
    share of the others' 3/4 − 1/2: (−1/4, 1/12, 1/6).
    """
    student = torch.tensor([[0.25, 0.25, 0.5]], dtype=torch.float64).log().requires_grad_()
    known = TopK(torch.tensor([[0]]), torch.tensor([[0.5]], dtype=torch.float64).log())
    total, count = distillation_loss(student, known, torch.ones(1))
    total.backward()
    assert count == 1
    assert total.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert student.grad.tolist()[0] == pytest.approx([-1 / 4, 1 / 12, 1 / 6])


def test_fewer_classes_never_exceed_the_whole_loss(student, teacher):
    values = [
        value_and_gradient(student, top_k(teacher, k), LossConfig())[0].item()
        for k in range(1, VOCABULARY + 1)
    ]
    assert values == sorted(values)
    assert values[0] < 0.9 * values[-1]


def test_the_order_of_the_tokens_is_nothing(student, teacher):
    known = top_k(teacher, 5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = TopK(known.ids[:, order], known.logits[:, order], known.remainder)
    found = value_and_gradient(student, shuffled, LossConfig())
    for one, other in zip(found, value_and_gradient(student, known, LossConfig()), strict=True):
        torch.testing.assert_close(one, other)


def test_another_temperature_needs_the_others_sum_at_it(student, teacher):
    """Log-probabilities stored at T = 1, and R_T = log Σ_others p^(1/T), are exact at T."""
    loss, k = LossConfig(temperature=3.0), 4
    stored = top_k(teacher, k)
    log_p = torch.log_softmax(teacher, -1).scatter(-1, stored.ids, -torch.inf)
    retempered = TopK(stored.ids, stored.logits / 3.0, (log_p / 3.0).logsumexp(-1))
    found = value_and_gradient(student, retempered, loss)
    expected = value_and_gradient(student, top_k(teacher, k, 3.0), loss)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("k", [1, 4, VOCABULARY - 1])
def test_the_others_sum_is_the_dense_one_at_every_temperature(teacher, k):
    temperatures = [0.5, 1.0, 3.0]
    ids, log_probs, remainders = likeliest(teacher.float(), k, temperatures)
    p = torch.softmax(teacher, -1)
    torch.testing.assert_close(log_probs.double().exp(), p.gather(-1, ids), rtol=1e-6, atol=0)
    assert torch.equal(log_probs, log_probs.sort(descending=True).values)
    others = torch.ones_like(p).scatter(-1, ids, 0.0)
    for column, t in enumerate(temperatures):
        expected = (p ** (1 / t) * others).sum(-1)
        torch.testing.assert_close(
            remainders[:, column].double().exp(), expected, rtol=1e-5, atol=0
        )


def test_no_token_is_left_where_all_are_kept(teacher):
    assert (likeliest(teacher, VOCABULARY, [1.0, 2.0])[2] == -torch.inf).all()


def test_stored_probabilities_that_rounding_took_above_one_are_no_nan(student):
    known = TopK(torch.tensor([[0, 1]] * TOKENS), torch.full((TOKENS, 2), math.log(0.5004)).half())
    value, gradient = value_and_gradient(student, known, LossConfig())
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("gap", [200.0, 1e4])
def test_a_student_sure_of_the_known_tokens_still_learns_about_the_others(gap):
    """The others' probability underflows in float32; their logit does not."""
    student = torch.zeros(1, 5)
    student[0, 2] = gap
    known = TopK(torch.tensor([[2]]), torch.tensor([[0.5]]).log())
    student.requires_grad_()
    total, _ = distillation_loss(student, known, torch.ones(1))
    total.backward()
    assert total.item() == pytest.approx(0.5 * (gap - math.log(4)) + math.log(0.5), rel=1e-5)
    torch.testing.assert_close(student.grad, torch.tensor([[-0.125] * 2 + [0.5] + [-0.125] * 2]))
