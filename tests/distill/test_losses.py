"""Forward KL against its definition in float64, its identities and hand-computed cases."""

import math
from pathlib import Path

import pytest
import torch
from torch.nn.functional import log_softmax

from nemo_bielik.distill.losses import forward_kl

HERE = str(Path(__file__).parent)
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


def by_definition(student, teacher, mask, temperature):
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


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_it_is_the_definition_in_value_and_gradient(student, teacher, mask, temperature):
    total, count = forward_kl(student, teacher, mask, temperature)
    value, gradient = value_and_gradient(total, student)
    expected, slope = value_and_gradient(
        by_definition(student, teacher, mask, temperature), student
    )
    assert expected > 1
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-13)
    assert count == 6


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_finite_differences_agree(student, teacher, mask, temperature):
    assert torch.autograd.gradcheck(
        lambda logits: forward_kl(logits, teacher, mask, temperature)[0], (student,)
    )


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
    expected, slope = value_and_gradient(by_definition(exact, teacher, mask, 2.0), exact)
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


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_logits_and_temperature_times_c_give_c_squared(student, teacher, mask, temperature, factor):
    scaled = forward_kl(student * factor, teacher * factor, mask, temperature * factor)[0]
    plain = forward_kl(student, teacher, mask, temperature)[0]
    torch.testing.assert_close(scaled, factor**2 * plain, rtol=1e-12, atol=0)


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


def test_the_gradients_size_hardly_depends_on_the_temperature():
    """Where logits are small beside T, T²·KL is half the variance of their difference."""
    student = random_logits(1, scale=1e-3).requires_grad_()
    teacher, mask = random_logits(2, scale=1e-3), torch.ones(BATCH, SEQUENCE)
    gradients = [
        value_and_gradient(forward_kl(student, teacher, mask, temperature)[0], student)[1]
        for temperature in TEMPERATURES
    ]
    difference = student.detach() - teacher
    expected = (difference - difference.mean(-1, keepdim=True)) / VOCABULARY
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=2e-2, atol=1e-6)


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


def test_a_vocabulary_on_two_ranks_is_one_vocabulary(student, teacher, mask, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)  # handed on to the processes
    import vocabulary_ranks

    problems = [(student.detach(), teacher, mask, temperature) for temperature in TEMPERATURES]
    torch.multiprocessing.spawn(vocabulary_ranks.slice_losses, (2, tmp_path, problems), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for temperature, *slices in zip(TEMPERATURES, *ranks, strict=True):
        total, count = forward_kl(student, teacher, mask, temperature)
        value, gradient = value_and_gradient(total, student)
        for rank_value, rank_count, _ in slices:
            torch.testing.assert_close(rank_value, value, rtol=1e-12, atol=0)
            assert rank_count == count
        torch.testing.assert_close(torch.cat([slope for *_, slope in slices], -1), gradient)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_of_nothing_is_refused(student, teacher, mask, temperature):
    with pytest.raises(ValueError, match=f"above 0, got {temperature}"):
        forward_kl(student, teacher, mask, temperature)


def test_shapes_that_do_not_fit_are_named(student, teacher, mask):
    with pytest.raises(ValueError, match=r"\[2, 5, 12\].*\[2, 5, 11\]"):
        forward_kl(student, teacher[..., :-1], mask)
    with pytest.raises(ValueError, match=r"mask \[2, 4\].*\[2, 5, 12\]"):
        forward_kl(student, teacher, mask[:, :-1])
