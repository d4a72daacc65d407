"""Where the KL lies: every class against loops in float64, by hand, and on two ranks."""

import math

import pytest
import torch
import vocabulary_ranks

from nemo_bielik.distill.fused import OutputLayer
from nemo_bielik.distill.token_classes import CLASSES, as_log, class_sums, compare, from_log
from nemo_bielik.distill.top_k import TopK, top_k

TOKENS, VOCABULARY = 60, 30
#: The same edges once more: a choice among 1.1, 2, 5 and 20 equally likely tokens, as documented.
EDGES = [0.0, 0.1, 0.7, 1.6, 3.0, math.inf]


def make():
    """Return student, teacher and mask; the student knows 5 of the teacher's 7 directions.

    The teacher's sharpness grows from token to token.
    """
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(TOKENS, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, 7, generator=generator, dtype=torch.float64)
    hidden *= torch.linspace(0.05, 4, TOKENS, dtype=torch.float64).unsqueeze(-1)
    mask = (torch.rand(TOKENS, generator=generator) < 0.8).double()
    return OutputLayer(hidden[:, :5], weight[:, :5]), OutputLayer(hidden, weight), mask


@pytest.fixture
def problem():
    return make()


def logits(layer):
    return layer.hidden @ layer.weight.t()


def classes_of(entropy, agrees):
    """Return the numbers of the classes that a token is in."""
    edge = next(n for n in range(5) if EDGES[n] <= entropy < EDGES[n + 1])
    return [0, 1 + edge, 6 if agrees else 7]


def distributions(student, teacher, k):
    """Return p and q over the vocabulary, or over k tokens of the teacher's and all others."""
    p, q = torch.softmax(teacher, -1), torch.softmax(student, -1)
    if k is None:
        return p, q
    ids = sorted(range(len(p)), key=lambda token: -p[token])[:k]
    return tuple(torch.cat([x[ids], (x.sum() - x[ids].sum()).view(1)]) for x in (p, q))


def by_definition(student, teacher, mask, k=None):
    """Return the sums of every class, token by token."""
    sums = torch.zeros(8, 4, dtype=torch.float64)
    for row in mask.nonzero().squeeze(-1).tolist():
        scores, theirs = logits(student)[row], logits(teacher)[row]
        p, q = distributions(scores, theirs, k)
        entropy = -(p * p.log()).sum().item()
        agrees = scores.argmax() == theirs.argmax()
        figures = torch.tensor([1.0, (p * (p / q).log()).sum(), entropy, float(agrees)])
        for number in classes_of(entropy, agrees):
            sums[number] += figures
    return sums


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_every_class_is_its_definition(problem, rows):
    found = class_sums(*problem, chunk_bytes=rows * 2 * VOCABULARY * 8)
    expected = by_definition(*problem)
    assert (expected[:, 0] > 0).all(), "every class has tokens"
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(class_sums(*problem), expected)


def test_of_a_cached_teacher_the_others_are_one_class(problem):
    student, teacher, mask = problem
    found = class_sums(student, top_k(logits(teacher), 4), mask)
    torch.testing.assert_close(found, by_definition(*problem, k=4))
    whole = class_sums(student, top_k(logits(teacher), VOCABULARY), mask)
    torch.testing.assert_close(whole, by_definition(*problem))


def test_a_cached_teacher_is_compared_at_its_temperature(problem):
    student, teacher, mask = problem
    found = class_sums(student, top_k(logits(teacher), 4, 2.0), mask, temperature=2.0)
    cooled = [OutputLayer(x.hidden / 2, x.weight) for x in (student, teacher)]
    torch.testing.assert_close(found, by_definition(*cooled, mask, k=4))


def test_a_row_by_hand():
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = ln 2 / 4, H = 3/2 · ln 2, they disagree."""
    p, q = (torch.tensor([row]).double().log() for row in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    kl, entropy, agrees = compare(q, p)
    assert kl.item() == pytest.approx(math.log(2) / 4)
    assert entropy.item() == pytest.approx(1.5 * math.log(2))
    assert not agrees.item()
    assert compare(p, p)[0].item() == 0
    assert compare(p, p)[2].item()


def test_a_sure_teacher_has_no_entropy_and_ruled_out_tokens_no_part():
    sure = torch.tensor([[200.0, 0.0, -torch.inf]])
    kl, entropy, agrees = compare(torch.tensor([[0.0, -math.log(3), -torch.inf]]), sure)
    assert entropy.item() == 0
    assert kl.item() == pytest.approx(math.log(4 / 3))
    assert agrees.item()


def test_what_does_not_count_changes_nothing(problem):
    student, teacher, mask = problem
    hidden = torch.where(mask.unsqueeze(-1) > 0, student.hidden, torch.nan)
    found = class_sums(OutputLayer(hidden, student.weight), teacher, mask)
    torch.testing.assert_close(found, class_sums(student, teacher, mask))
    assert (class_sums(student, teacher, torch.zeros_like(mask)) == 0).all()


def test_shapes_of_a_batch(problem):
    student, teacher, mask = problem
    batch = [OutputLayer(x.hidden.view(4, 15, -1), x.weight) for x in (student, teacher)]
    torch.testing.assert_close(class_sums(*batch, mask.view(4, 15)), class_sums(*problem))


def test_two_ranks_find_what_one_finds(problem, tmp_path):
    student, teacher, mask = problem
    tie = torch.zeros(1, VOCABULARY)  # both ranks hold a largest logit: the first id counts
    known = TopK(torch.tensor([[0]]), torch.tensor([[0.5]]).log())
    torch.multiprocessing.spawn(
        vocabulary_ranks.token_classes, (tmp_path, student, teacher, mask, tie, known), nprocs=2
    )
    for rank in range(2):
        live, cached, agrees = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(live, by_definition(*problem))
        torch.testing.assert_close(cached, by_definition(*problem, k=4))
        assert agrees.item()


def test_a_log_adds_up_over_micro_batches(problem):
    """As Bridge does it: pairs are summed, then divided."""
    student, teacher, mask = problem
    parts = [slice(0, 20), slice(20, 21), slice(21, TOKENS)]
    logs = [as_log(class_sums(student.rows(x), teacher.rows(x), mask[x])) for x in parts]
    pairs = {name: sum(log[name] for log in logs) for name in logs[0]}
    table = from_log({name: pair[0] / pair[1] for name, pair in pairs.items()}, len(parts))
    sums = by_definition(*problem)
    assert list(table) == list(CLASSES)
    for row, figures in zip(sums, table.values(), strict=True):
        assert figures["tokens"] == row[0]
        means = [row[0] / mask.sum(), *(row[1:] / row[0])]
        assert list(figures.values())[1:] == pytest.approx([float(x) for x in means], rel=1e-5)


def test_classes_without_tokens_are_left_out():
    """0 / 0 is no figure; and a log of something else holds none."""
    sums = torch.zeros(8, 4)
    sums[[0, 2, 6]] = torch.tensor([3.0, 0.6, 1.5, 3.0])
    means = {name: pair[0] / pair[1] for name, pair in as_log(sums).items()}
    assert list(from_log(means, 1)) == ["all", "entropy 0.1 to 0.7", "same top token"]
    assert from_log({"loss": torch.tensor(1.0)}, 1) == {}
