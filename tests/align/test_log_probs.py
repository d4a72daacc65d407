"""Log-probabilities without logits are those with them: in any chunks, on any ranks."""

import pytest
import torch
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from log_prob_ranks import RANKS, slice_results

from nemo_bielik.align.log_probs import label_log_probs
from nemo_bielik.distill.fused import OutputLayer


def make(seed, tokens=11, vocabulary=12, width=5):
    """Return hidden states, weight, labels, mask (60 % count), the log-probabilities' slopes."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    mask = (torch.rand(tokens, generator=generator) < 0.6).double()
    slopes = torch.randn(tokens, generator=generator, dtype=torch.float64)
    return hidden, weight, labels, mask, slopes


def by_definition(hidden, weight, labels, mask, slopes):
    """Values and gradients by the whole softmax and autograd."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    log_probs = torch.log_softmax(hidden @ weight.t(), -1)
    found = log_probs.gather(-1, labels.unsqueeze(-1)).squeeze(-1)[mask != 0]
    (found * slopes[mask != 0]).sum().backward()
    return found.detach(), hidden.grad, weight.grad


def ours(hidden, weight, labels, mask, slopes, chunk_bytes=None):
    layer = OutputLayer(hidden.clone().requires_grad_(), weight.clone().requires_grad_())
    found = label_log_probs(layer, labels, mask, chunk_bytes=chunk_bytes)
    (found * slopes[mask != 0]).sum().backward()
    return found.detach(), layer.hidden.grad, layer.weight.grad


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 30),
    vocabulary=st.integers(1, 40),
    width=st.integers(1, 9),
    chunk_bytes=st.none() | st.integers(1, 5_000),
    seed=st.integers(0, 99),
)
def test_chunks_of_any_size_are_the_definition(tokens, vocabulary, width, chunk_bytes, seed):
    problem = make(seed, tokens, vocabulary, width)
    for one, other in zip(ours(*problem, chunk_bytes), by_definition(*problem), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_batches_keep_their_shape_and_what_does_not_count_changes_nothing():
    hidden, weight, labels, mask, slopes = make(1, tokens=12)
    expected = ours(hidden, weight, labels, mask, slopes)
    hidden[mask == 0] = torch.nan
    labels[mask == 0] = 10**6
    shaped = hidden.view(3, 4, -1).clone().requires_grad_()
    layer = OutputLayer(shaped, weight.clone().requires_grad_())
    found = label_log_probs(layer, labels.view(3, 4), mask.view(3, 4))
    (found * slopes[mask != 0]).sum().backward()
    torch.testing.assert_close(found.detach(), expected[0])
    torch.testing.assert_close(shaped.grad.view(12, -1), expected[1])
    torch.testing.assert_close(layer.weight.grad, expected[2])


def test_bfloat16_is_computed_in_float32():
    hidden, weight, labels, mask, slopes = (x.float() for x in make(3, tokens=40, vocabulary=60))
    labels = labels.long()
    rounded = hidden.bfloat16(), weight.bfloat16()
    found = ours(*rounded, labels, mask, slopes)
    expected = by_definition(*(x.float() for x in rounded), labels, mask, slopes)
    assert [x.dtype for x in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=0.05, atol=0.05)


def test_nothing_to_learn_gives_nothing_with_gradients_of_zero():
    hidden, weight, labels, mask, slopes = make(2)
    found = ours(hidden, weight, labels, torch.zeros_like(mask), slopes)
    assert len(found[0]) == 0 and not found[1].any() and not found[2].any()


@pytest.mark.parametrize(
    ("labels", "mask", "said"),
    [
        (torch.zeros(3, dtype=torch.long), torch.ones(4), r"labels \[3\] and mask \[4\]"),
        (torch.full((4,), 12), torch.ones(4), "labels are 12 to 12; the vocabulary has 12"),
    ],
)
def test_what_does_not_fit_is_refused(labels, mask, said):
    layer = OutputLayer(torch.zeros(4, 5), torch.zeros(12, 5))
    with pytest.raises(ValueError, match=said):
        label_log_probs(layer, labels, mask)


def test_ranks_that_share_the_vocabulary_find_the_same(tmp_path):
    problem = make(4, tokens=13, vocabulary=RANKS * 6)
    torch.multiprocessing.spawn(slice_results, (tmp_path, problem), nprocs=RANKS)
    log_probs, slopes, weight_slopes = by_definition(*problem)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for rank, (mine, _, my_weight) in enumerate(found):
        torch.testing.assert_close(mine, log_probs)
        torch.testing.assert_close(my_weight, weight_slopes.chunk(RANKS)[rank])
    torch.testing.assert_close(sum(slope for _, slope, _ in found), slopes)
