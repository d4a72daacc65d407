"""Losses against their definitions in float64, their identities and hand-computed cases."""

import math
from dataclasses import replace

import pytest
import torch
from loss_definitions import LOSSES, by_definition
from torch.nn.functional import log_softmax

from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.losses import distillation_loss
from nemo_bielik.errors import ConfigError

BATCH, SEQUENCE, VOCABULARY = 2, 5, 12
TEMPERATURES = [1.0, 2.0, 4.0]


def random_logits(seed, dtype=torch.float64, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, SEQUENCE, VOCABULARY)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture
def student():
    return random_logits(1).requires_grad_()


@pytest.fixture
def teacher():
    return random_logits(2)


@pytest.fixture
def mask():
    """Six of ten tokens count, not the same ones in both sequences."""
    return torch.tensor([[1.0, 1, 0, 0, 1], [0, 1, 0, 1, 1]], dtype=torch.float64)


@pytest.fixture
def labels():
    generator = torch.Generator().manual_seed(4)
    return torch.randint(VOCABULARY, (BATCH, SEQUENCE), generator=generator)


def forward_kl(student, teacher, mask, temperature=1.0):
    """The report's loss: nothing but a temperature."""
    return distillation_loss(student, teacher, mask, LossConfig(temperature=temperature))


def forward_by_definition(student, teacher, mask, temperature):
    """T² · Σ mask · Σ_v p_t · (log p_t − log p_s), token by token."""
    total = torch.zeros((), dtype=torch.float64)
    for where in mask.nonzero().tolist():
        log_teacher = log_softmax(teacher[tuple(where)].double() / temperature, -1)
        log_student = log_softmax(student[tuple(where)].double() / temperature, -1)
        total = total + (log_teacher.exp() * (log_teacher - log_student)).sum()
    return temperature**2 * total


def value_and_gradient(loss, student):
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
every_divergence = pytest.mark.parametrize(
    "divergence", ["forward-kl", "reverse-kl", "jensen-shannon"]
)


@every_loss
def test_every_loss_is_its_definition_in_value_and_gradient(student, teacher, mask, labels, loss):
    total, count = distillation_loss(student, teacher, mask, loss, labels)
    value, gradient = value_and_gradient(total, student)
    expected, slope = value_and_gradient(
        by_definition(student, teacher, mask, loss, labels), student
    )
    assert expected > 0.3
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-13)
    assert count == 6


@every_loss
def test_finite_differences_agree_with_every_loss(student, teacher, mask, labels, loss):
    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(logits, teacher, mask, loss, labels)[0],
        (student,),
        fast_mode=True,
    )


@every_divergence
def test_a_student_that_is_the_teacher_has_nothing_to_learn(teacher, mask, divergence):
    student = teacher.float().requires_grad_()
    loss = LossConfig(divergence=divergence, temperature=2.0)
    total, _ = distillation_loss(student, teacher.float(), mask, loss)
    value, gradient = value_and_gradient(total, student)
    assert value == 0
    assert not gradient.any()


@every_divergence
@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_scaling_law_of_the_temperature(student, teacher, mask, divergence, factor):
    """Logits and T times c give c² times the loss: at T it is T² times that of logits / T at 1."""
    loss = LossConfig(divergence=divergence, beta=0.3, temperature=2.0)
    scaled = replace(loss, temperature=2.0 * factor)
    plain = distillation_loss(student, teacher, mask, loss)[0]
    found = distillation_loss(student * factor, teacher * factor, mask, scaled)[0]
    torch.testing.assert_close(found, factor**2 * plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("divergence", "share"), [("forward-kl", 1), ("reverse-kl", 1), ("jensen-shannon", 0.3 * 0.7)]
)
def test_at_high_temperatures_all_are_the_variance_of_the_logits_difference(
    student, teacher, divergence, share
):
    """T² · KL → Var(z_s − z_t) / 2 over the vocabulary, T² · JS → β · (1 − β) times that."""
    loss = LossConfig(divergence=divergence, beta=0.3, temperature=1e4)
    total, _ = distillation_loss(student, teacher, torch.ones(BATCH, SEQUENCE), loss)
    value, gradient = value_and_gradient(total, student)
    difference = student.detach() - teacher
    variance = difference.var(-1, correction=0).sum()
    torch.testing.assert_close(value, share * variance / 2, rtol=2e-3, atol=0)
    slope = share * (difference - difference.mean(-1, keepdim=True)) / VOCABULARY
    torch.testing.assert_close(gradient, slope, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("beta", "divergence", "scale"), [(1e-6, "forward-kl", 1e-6), (1 - 1e-6, "reverse-kl", 1e-6)]
)
def test_jensen_shannon_lies_between_the_two_directions(
    student, teacher, mask, beta, divergence, scale
):
    loss = LossConfig(divergence="jensen-shannon", beta=beta)
    found = distillation_loss(student, teacher, mask, loss)[0] / scale
    expected = distillation_loss(student, teacher, mask, LossConfig(divergence=divergence))[0]
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


def test_half_and_half_jensen_shannon_is_symmetric_and_at_most_ln_2(mask):
    loss = LossConfig(divergence="jensen-shannon")
    first, second = random_logits(1, scale=50.0), random_logits(2, scale=50.0)
    there, count = distillation_loss(first, second, mask, loss)
    back, _ = distillation_loss(second, first, mask, loss)
    torch.testing.assert_close(there, back, rtol=1e-12, atol=0)
    assert 0.5 * math.log(2) < there / count <= math.log(2)


@every_loss
def test_what_masked_tokens_hold_changes_nothing(student, teacher, mask, labels, loss):
    value, gradient = value_and_gradient(
        distillation_loss(student, teacher, mask, loss, labels)[0], student
    )
    poison = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
    bad, worse = student.detach().clone(), teacher.clone()
    bad[mask == 0] = poison.repeat(4)
    worse[mask == 0] = poison.flip(0).repeat(4)
    ignored = torch.where(mask == 0, -100, labels)
    bad.requires_grad_()
    found, slope = value_and_gradient(distillation_loss(bad, worse, mask, loss, ignored)[0], bad)
    assert torch.equal(found, value)
    assert torch.equal(slope, gradient)
    assert not slope[mask == 0].any()


@every_divergence
def test_tokens_that_both_rule_out_are_no_part_of_the_vocabulary(
    student, teacher, mask, divergence
):
    loss = LossConfig(divergence=divergence)
    smaller = student.detach()[..., 2:].clone().requires_grad_()
    expected, slope = value_and_gradient(
        distillation_loss(smaller, teacher[..., 2:], mask, loss)[0], smaller
    )
    ruled_out = torch.full((BATCH, SEQUENCE, 2), -torch.inf, dtype=torch.float64)
    bigger = torch.cat([ruled_out, smaller.detach()], -1).requires_grad_()
    target = torch.cat([ruled_out, teacher[..., 2:]], -1)
    value, gradient = value_and_gradient(distillation_loss(bigger, target, mask, loss)[0], bigger)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[..., 2:], slope)
    assert not gradient[..., :2].any()


@pytest.mark.parametrize(
    ("divergence", "without", "finite"),
    [
        ("forward-kl", "teacher", True),
        ("forward-kl", "student", False),
        ("reverse-kl", "student", True),
        ("reverse-kl", "teacher", False),
        ("jensen-shannon", "teacher", True),
        ("jensen-shannon", "student", True),
    ],
)
def test_a_token_that_one_rules_out(student, teacher, mask, divergence, without, finite):
    logits = {"student": student.detach().clone(), "teacher": teacher.clone()}
    logits[without][..., 0] = -torch.inf
    nearly = {name: value.clamp(min=-600.0) for name, value in logits.items()}
    mine = logits["student"].requires_grad_()
    loss = LossConfig(divergence=divergence)
    value, gradient = value_and_gradient(
        distillation_loss(mine, logits["teacher"], mask, loss)[0], mine
    )
    assert value.isfinite() == finite
    if finite:
        expected, _ = distillation_loss(nearly["student"], nearly["teacher"], mask, loss)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        assert gradient.isfinite().all()
    else:
        assert value == torch.inf


@every_loss
def test_a_counted_nan_is_never_hidden(student, teacher, mask, labels, loss):
    for logits in (student.detach(), teacher):
        spoilt = logits.clone()
        spoilt[0, 0, 3] = torch.nan
        pair = (student, spoilt) if logits is teacher else (spoilt, teacher)
        assert distillation_loss(*pair, mask, loss, labels)[0].isnan()


def test_labels_alone_are_torch_s_cross_entropy(student, teacher, mask, labels):
    loss = LossConfig(label_weight=1.0, temperature=2.0)
    value, gradient = value_and_gradient(
        distillation_loss(student, teacher, mask, loss, labels)[0], student
    )
    chosen = torch.where(mask == 1, labels, -100).flatten()
    expected, slope = value_and_gradient(
        torch.nn.functional.cross_entropy(student.flatten(0, 1), chosen, reduction="sum"), student
    )
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


def test_labels_that_are_missing_or_no_tokens_are_named(student, teacher, mask, labels):
    loss = LossConfig(label_weight=0.5)
    with pytest.raises(ValueError, match=r"label_weight needs labels \[2, 5\], got none"):
        distillation_loss(student, teacher, mask, loss)
    with pytest.raises(ValueError, match=r"labels are \d+ to 12; the vocabulary has 12"):
        distillation_loss(student, teacher, torch.ones_like(mask), loss, labels.fill_(VOCABULARY))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_it_is_the_definition_in_value_and_gradient(student, teacher, mask, temperature):
    total, count = forward_kl(student, teacher, mask, temperature)
    value, gradient = value_and_gradient(total, student)
    expected, slope = value_and_gradient(
        forward_by_definition(student, teacher, mask, temperature), student
    )
    assert expected > 1
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-13)
    assert count == 6


@pytest.mark.parametrize(
    ("dtype", "value_tolerance", "gradient_tolerance"),
    [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 1e-5, 2**-8), (torch.float16, 1e-5, 2**-10)],
)
def test_narrow_logits_are_summed_in_float32(mask, dtype, value_tolerance, gradient_tolerance):
    """The logits are rounded, the arithmetic is not: only the gradient is rounded once more."""
    student, teacher = random_logits(1, dtype).requires_grad_(), random_logits(2, dtype)
    value, gradient = value_and_gradient(
        forward_kl(student, teacher, mask.to(torch.float32), 2.0)[0], student
    )
    exact = student.detach().double().requires_grad_()
    expected, slope = value_and_gradient(forward_by_definition(exact, teacher, mask, 2.0), exact)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(value.double(), expected, rtol=value_tolerance, atol=0)
    torch.testing.assert_close(
        gradient.double(), slope, rtol=gradient_tolerance, atol=gradient_tolerance / 100
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_like_its_teacher_has_nothing_to_learn(student, mask, temperature):
    value, gradient = value_and_gradient(
        forward_kl(student, student.detach().clone(), mask, temperature)[0], student
    )
    assert value == 0
    assert not gradient.any()


def test_adding_a_constant_to_a_tokens_logits_changes_nothing(student, teacher, mask):
    shift = torch.linspace(-50, 50, BATCH * SEQUENCE, dtype=torch.float64).view(BATCH, SEQUENCE, 1)
    torch.testing.assert_close(
        forward_kl(student + shift, teacher - shift, mask)[0],
        forward_kl(student, teacher, mask)[0],
        rtol=1e-11,
        atol=0,
    )


def test_huge_logits_stay_finite(mask):
    """Two sure models that disagree: the divergence is the gap between their logits."""
    student = torch.zeros(BATCH, SEQUENCE, VOCABULARY)
    teacher = student.clone()
    student[..., 0], teacher[..., 1] = 1e4, 1e4
    total, count = forward_kl(student, teacher, mask.float())
    assert total.item() == pytest.approx(1e4 * count.item())


def test_the_teacher_stands_first():
    """Two classes, teacher (3/4, 1/4), student (1/4, 3/4) once and (1/2, 1/2) once.

    KL(t‖s) = 3/4·ln 3 + 1/4·ln(1/3) = ln(3)/2 for the first, whose reverse is the same; for the
    second it is 3/4·ln(3/2) + 1/4·ln(1/2) = 3/4·ln 3 − ln 2 ≈ 0.1308, against a reverse of
    1/2·ln(2/3) + 1/2·ln 2 = ln 2 − ln(3)/2 ≈ 0.1438.
    """
    teacher = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    for weights, expected in [
        ([1.0, 3.0], math.log(3) / 2),
        ([1.0, 1.0], 0.75 * math.log(3) - math.log(2)),
    ]:
        student = torch.tensor([weights], dtype=torch.float64).log().requires_grad_()
        total, count = forward_kl(student, teacher, torch.ones(1, dtype=torch.float64))
        total.backward()
        assert total.item() == pytest.approx(expected, rel=1e-12)
        assert count == 1
        share = weights[0] / sum(weights)  # p_s − p_t, by hand
        assert student.grad.tolist()[0] == pytest.approx([share - 0.75, 0.75 - share])


def test_the_teacher_gets_no_gradient(student, mask):
    teacher = random_logits(2).requires_grad_()
    forward_kl(student, teacher, mask)[0].backward()
    assert teacher.grad is None
    assert student.grad.any()


def test_inputs_are_left_as_they_are(student, teacher, mask):
    for dtype in (torch.float32, torch.float64):
        theirs, ours = teacher.to(dtype), student.detach().to(dtype).requires_grad_()
        before = theirs.clone(), ours.detach().clone()
        forward_kl(ours, theirs, mask.to(dtype))[0].backward()
        assert torch.equal(theirs, before[0])
        assert torch.equal(ours, before[1])


def test_masked_tokens_do_not_count(student, teacher, mask):
    value, gradient = value_and_gradient(forward_kl(student, teacher, mask)[0], student)
    changed = teacher + 7 * random_logits(3) * (1 - mask).unsqueeze(-1)
    assert torch.equal(forward_kl(student, changed, mask)[0], value)
    assert not gradient[mask == 0].any()
    assert gradient[mask == 1].any(-1).all()


def test_counted_tokens_add_up(student, teacher, mask):
    parts = [forward_kl(student, teacher, part) for part in (mask, 1 - mask)]
    whole = forward_kl(student, teacher, torch.ones_like(mask))
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    assert [count.item() for _, count in (*parts, whole)] == [6, 4, 10]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_masks_of_any_type(student, teacher, mask, dtype):
    value, gradient = value_and_gradient(forward_kl(student, teacher, mask.to(dtype))[0], student)
    expected, slope = value_and_gradient(forward_kl(student, teacher, mask)[0], student)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, slope)


def test_all_masked_gives_zero_with_a_gradient(student, teacher):
    total, count = forward_kl(student, teacher, torch.zeros(BATCH, SEQUENCE))
    value, gradient = value_and_gradient(total, student)
    assert (value, count) == (0, 0)
    assert torch.equal(gradient, torch.zeros_like(student))


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_nothing_is_refused(student, teacher, mask, temperature):
    with pytest.raises(ConfigError, match=f"temperature is {temperature}; it must be above 0"):
        forward_kl(student, teacher, mask, temperature)


def test_shapes_that_do_not_fit_are_named(student, teacher, mask):
    with pytest.raises(ValueError, match=r"\[2, 5, 12\].*\[2, 5, 11\]"):
        forward_kl(student, teacher[..., :-1], mask)
    with pytest.raises(ValueError, match=r"mask \[2, 4\].*\[2, 5, 12\]"):
        forward_kl(student, teacher, mask[:, :-1])
