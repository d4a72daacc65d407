"""The fused loss is the dense one: value, gradients, work and memory."""

import pytest
import torch
import vocabulary_ranks
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_definitions import LOSSES, by_definition
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from nemo_bielik.distill.fused import OutputLayer, fused_loss
from nemo_bielik.distill.loss_config import LossConfig
from nemo_bielik.distill.losses import distillation_loss
from nemo_bielik.distill.top_k import top_k

TOKENS, VOCABULARY, WIDTH, TEACHER_WIDTH = 10, 12, 5, 7
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def make(seed, tokens=TOKENS, vocabulary=VOCABULARY, width=WIDTH, teacher_width=TEACHER_WIDTH):
    """Return student, teacher, mask (60 % count) and labels of random numbers in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for size in (width, teacher_width):
        hidden, weight = (
            torch.randn(rows, size, generator=generator, dtype=torch.float64)
            for rows in (tokens, vocabulary)
        )
        layers.append(OutputLayer(hidden, weight))
    mask = (torch.rand(tokens, generator=generator) < 0.6).to(torch.float64)
    return *layers, mask, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.fixture
def problem():
    return make(1)


def asking(layer):
    """The same layer, asking for gradients."""
    return OutputLayer(layer.hidden.clone().requires_grad_(), layer.weight.clone().requires_grad_())


def logits(layer):
    return layer.hidden @ layer.weight.t()


def gradients(loss, layer):
    return loss.detach(), *torch.autograd.grad(loss, (layer.hidden, layer.weight))


def through_logits(student, teacher, mask, loss, labels, k=None):
    """Value and gradients by the dense loss and autograd."""
    layer = asking(student)
    target = logits(teacher) if k is None else top_k(logits(teacher), k, loss.temperature)
    return gradients(distillation_loss(logits(layer), target, mask, loss, labels)[0], layer)


def fused(student, teacher, mask, loss, labels, chunk_bytes=None, k=None):
    layer = asking(student)
    target = teacher if k is None else top_k(logits(teacher), k, loss.temperature)
    total, count = fused_loss(layer, target, mask, loss, labels, chunk_bytes=chunk_bytes)
    assert count == mask.sum()
    return gradients(total, layer)


def assert_equal(found, expected, tolerance=1e-11):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * 0.1)


@every_loss
@pytest.mark.parametrize("k", [None, 4])
def test_it_is_the_definition_in_float64(problem, loss, k):
    student, teacher, mask, labels = problem
    layer = asking(student)
    target = logits(teacher) if k is None else top_k(logits(teacher), k, loss.temperature)
    expected = gradients(by_definition(logits(layer), target, mask, loss, labels), layer)
    assert expected[0] > 0.1
    assert_equal(fused(*problem[:3], loss, labels, chunk_bytes=1, k=k), expected)


@settings(deadline=None, max_examples=60)
@given(
    loss=st.sampled_from(list(LOSSES.values())),
    tokens=st.integers(1, 30),
    vocabulary=st.integers(1, 40),
    widths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    chunk_bytes=st.integers(1, 20_000),
    share=st.none() | st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_chunks_of_any_size_are_the_dense_loss(
    loss, tokens, vocabulary, widths, chunk_bytes, share, seed
):
    student, teacher, mask, labels = make(seed, tokens, vocabulary, *widths)
    k = None if share is None else max(1, round(share * vocabulary))
    found = fused(student, teacher, mask, loss, labels, chunk_bytes, k)
    assert_equal(found, through_logits(student, teacher, mask, loss, labels, k), 1e-9)


def test_batches_of_sequences_keep_their_shape(problem):
    student, teacher, mask, _ = problem
    shaped = [OutputLayer(x.hidden.view(2, 5, -1), x.weight) for x in (student, teacher)]
    value, slope, weight_slope = fused(*shaped, mask.view(2, 5), LossConfig(), None)
    expected = fused(student, teacher, mask, LossConfig(), None)
    assert_equal((value, slope.view(TOKENS, WIDTH), weight_slope), expected)


def test_a_layout_with_the_sequence_first_needs_no_copy_beforehand(problem):
    student, teacher, mask, _ = problem
    layer = asking(student)
    hidden = layer.hidden.view(5, 2, WIDTH).transpose(0, 1)
    target = OutputLayer(teacher.hidden.view(5, 2, -1).transpose(0, 1), teacher.weight)
    total, _ = fused_loss(OutputLayer(hidden, layer.weight), target, mask.view(5, 2).t())
    assert_equal(gradients(total, layer), fused(student, teacher, mask, LossConfig(), None))


@every_loss
def test_all_masked_is_zero_with_zero_gradients(problem, loss):
    student, teacher, mask, labels = problem
    for found in fused(student, teacher, torch.zeros_like(mask), loss, labels):
        assert not found.any()


def test_no_tokens_at_all_is_zero_too():
    student, teacher, mask, labels = make(1, tokens=0)
    for found in fused(student, teacher, mask, LossConfig(), labels):
        assert not found.any()


@every_loss
def test_what_masked_tokens_hold_changes_nothing(problem, loss):
    student, teacher, mask, labels = problem
    poison = torch.where(mask.unsqueeze(-1) == 0, torch.nan, 0.0)
    spoilt = [OutputLayer(x.hidden + poison, x.weight) for x in (student, teacher)]
    ignored = torch.where(mask == 0, -100, labels)
    found = fused(*spoilt, mask, loss, ignored)
    for one, other in zip(found, fused(student, teacher, mask, loss, labels), strict=True):
        assert torch.equal(one, other)
    assert not found[1][mask == 0].any()


@pytest.mark.parametrize("divergence", ["forward-kl", "reverse-kl", "jensen-shannon"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(problem, divergence):
    student, _, mask, _ = problem
    loss = LossConfig(divergence=divergence, temperature=2.0)
    for found in fused(student, student, mask, loss, None):
        assert not found.any()


def test_the_gradient_that_comes_in_scales_what_goes_out(problem):
    student, teacher, mask, _ = problem
    layer = asking(student)
    total, _ = fused_loss(layer, teacher, mask)
    (3.0 * total).backward()
    _, slope, weight_slope = fused(student, teacher, mask, LossConfig(), None)
    torch.testing.assert_close(layer.hidden.grad, 3 * slope)
    torch.testing.assert_close(layer.weight.grad, 3 * weight_slope)


def test_a_second_backward_pass_is_refused_not_scaled_twice(problem):
    student, teacher, mask, _ = problem
    layer = asking(student)
    total, _ = fused_loss(layer, teacher, mask)
    total.backward(torch.tensor(2.0, dtype=torch.float64), retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_a_tied_weight_gets_both_its_gradients(problem):
    student, teacher, mask, _ = problem
    weight = student.weight.clone().requires_grad_()
    ids = torch.arange(TOKENS)

    def slope(total):
        return torch.autograd.grad(total, weight)[0]

    found = slope(fused_loss(OutputLayer(weight[ids], weight), teacher, mask)[0])
    expected = slope(distillation_loss(weight[ids] @ weight.t(), logits(teacher), mask)[0])
    torch.testing.assert_close(found, expected)


def products(loss=None, k=None, mask=None, frozen=False, gradient=True):
    """Count the multiplications and additions of forward and backward, in 2 · tokens · vocab."""
    student, teacher, ones, _ = make(3, tokens=64, vocabulary=32, width=8, teacher_width=16)
    mask = torch.ones_like(ones) if mask is None else mask
    layer = asking(student)
    layer.weight.requires_grad_(not frozen)
    target = teacher if k is None else top_k(logits(teacher), k)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(gradient):
        total, _ = fused_loss(layer, target, mask, loss, chunk_bytes=1000)
        if gradient:
            total.backward()
    return counter.get_total_flops() / (2 * 64 * 32)


def test_four_products_none_of_them_twice():
    student, teacher = 8, 16
    assert products() == 3 * student + teacher
    assert products(k=5) == 3 * student, "a cached teacher needs none"
    assert products(frozen=True) == 2 * student + teacher
    assert products(gradient=False) == student + teacher
    quarter = torch.arange(64) % 4 == 0
    assert products(mask=quarter) == (3 * student + teacher) / 4


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor that any operation made has."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (tuple, list)) else [result]
        sizes = [x.numel() for x in made if isinstance(x, torch.Tensor) and x.device.type == "cpu"]
        self.largest = max(self.largest, *sizes, 0)
        return result


@every_loss
def test_logits_never_exist_beyond_a_chunk(loss):
    student, teacher, mask, labels = make(2, tokens=640, vocabulary=64)
    rows = 16
    with LargestTensor() as watch:
        fused(student, teacher, mask, loss, labels, chunk_bytes=2 * rows * 64 * 8)
    assert watch.largest == max(rows * 64, 640 * TEACHER_WIDTH)
    with LargestTensor() as watch:
        through_logits(student, teacher, mask, loss, labels)
    assert watch.largest == 640 * 64, "the watch sees logits where there are some"


def test_bf16_products_with_sums_in_float32():
    student, teacher, mask, _ = make(5, tokens=600, vocabulary=48, width=32, teacher_width=16)
    narrow = [OutputLayer(x.hidden.bfloat16(), x.weight.bfloat16()) for x in (student, teacher)]
    exact = [OutputLayer(x.hidden.double(), x.weight.double()) for x in narrow]
    value, slope, weight_slope = fused(*narrow, mask, LossConfig(), None, chunk_bytes=4000)
    assert value.dtype == torch.float32
    assert slope.dtype == weight_slope.dtype == torch.bfloat16
    expected = fused(*exact, mask, LossConfig(), None)
    torch.testing.assert_close(value.double(), expected[0], rtol=1e-3, atol=0)
    for found, wanted in zip((slope, weight_slope), expected[1:], strict=True):
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 2e-2


def test_shapes_that_do_not_fit_are_named(problem):
    student, teacher, mask, _ = problem
    other = OutputLayer(teacher.hidden, teacher.weight[:-1])
    with pytest.raises(ValueError, match=r"\[10, 12\].*\[10, 11\]"):
        fused_loss(student, other, mask)
    with pytest.raises(ValueError, match=r"mask \[9\].*\[10, 12\]"):
        fused_loss(student, teacher, mask[1:])
    with pytest.raises(ValueError, match=r"ids \[9, 3\]"):
        fused_loss(student, top_k(logits(teacher)[1:], 3), mask)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What four ranks, together and in pairs, find for every loss."""
    folder = tmp_path_factory.mktemp("ranks")
    student, teacher, mask, labels = make(7, tokens=8)
    problem = {"student": student, "teacher": teacher, "mask": mask, "labels": labels}
    arguments = (folder, problem, list(LOSSES.values()))
    torch.multiprocessing.spawn(
        vocabulary_ranks.every_loss, arguments, nprocs=vocabulary_ranks.WORLD
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(vocabulary_ranks.WORLD)]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("number", range(len(LOSSES)), ids=LOSSES.keys())
@pytest.mark.parametrize("k", [None, 3])
def test_a_vocabulary_on_several_ranks_is_one_vocabulary(ranks, number, size, k):
    student, teacher, mask, labels = make(7, tokens=8)
    loss = list(LOSSES.values())[number]
    value, slope, weight_slope = through_logits(student, teacher, mask, loss, labels, k)
    mine = logits(student).requires_grad_()
    target = logits(teacher) if k is None else top_k(logits(teacher), k, loss.temperature)
    distillation_loss(mine, target, mask, loss, labels)[0].backward()
    for start in range(0, vocabulary_ranks.WORLD, size):
        found = [rank[size, number, k] for rank in ranks[start : start + size]]
        for results in found:
            for total, count, *_ in results.values():
                torch.testing.assert_close(total, value, rtol=1e-11, atol=0)
                assert count == mask.sum()
        slices = torch.cat([results["dense"][2] for results in found], -1)
        torch.testing.assert_close(slices, mine.grad)
        for name in ("fused", "split"):
            weights = torch.cat([results[name][3] for results in found])
            torch.testing.assert_close(weights, weight_slope)
        parts = torch.stack([results["fused"][2] for results in found])
        torch.testing.assert_close(parts.sum(0), slope)
        tokens = torch.cat([results["split"][2] for results in found])
        torch.testing.assert_close(tokens, slope)
