"""Packed text: no document sees another, whichever way the model is told."""

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import END_OF_DOCUMENT, STUDENT, VOCAB_SIZE, random_documents, write_tokens

from nemo_bielik.parallel import ParallelConfig

BEGIN = 1  # opens every document of `odd_documents`, and stands nowhere else
LENGTH, SAMPLES = 24, 40


@pytest.fixture(scope="module")
def packed_tokens():
    """Batches [b, s]: no document end, one anywhere, several in a row, nothing but ends."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(2, high, (3, 12), generator=generator) for high in (3, 4, 5, 8, 40)]
    batches += [torch.full((2, 5), 9), torch.full((1, 1), 9)]
    ends = torch.full((7, 7), 9)
    ends.fill_diagonal_(END_OF_DOCUMENT)
    return [*batches, ends]


def test_the_dense_mask_agrees_with_naive_loops(call, packed_tokens):
    positions = [plain.position_ids(tokens) for tokens in packed_tokens]
    found = call("runtime_cases:masks", positions)[0]
    for tokens, mask in zip(packed_tokens, found, strict=True):
        assert torch.equal(mask, ~plain.may_see(tokens))


def test_packed_edges_say_the_same_as_the_dense_mask(call, packed_tokens):
    positions = [plain.position_ids(tokens) for tokens in packed_tokens]
    found = call("runtime_cases:packings", positions)[0]
    for tokens, packing in zip(packed_tokens, found, strict=True):
        edges = packing["cu_seqlens_q"]
        lengths = edges.diff().tolist()
        causal = [torch.ones(length, length, dtype=torch.bool).tril() for length in lengths]
        dense = torch.block_diag(*plain.may_see(tokens).squeeze(1))  # rows end to end
        assert torch.equal(torch.block_diag(*causal), dense)
        assert torch.equal(edges, packing["cu_seqlens_kv"])
        assert edges.dtype == torch.int32  # the kernels take no other
        assert packing["max_seqlen_q"] == packing["max_seqlen_kv"] == max(lengths)
        assert packing["qkv_format"] == "thd"


@pytest.fixture(scope="module")
def odd_documents():
    """Every token id occurs, also 0, and documents of two tokens and of more than a sequence."""
    generator = np.random.default_rng(3)
    ordinary = [0, *range(3, VOCAB_SIZE)]
    lengths = [0, 0, 1, 70, *generator.integers(0, 20, 30)]
    return [
        [BEGIN, *generator.choice(ordinary, length).tolist(), END_OF_DOCUMENT] for length in lengths
    ]


@pytest.fixture(scope="module")
def samples(call, odd_documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    tokens = write_tokens(folder / "tokens", odd_documents)
    arguments = (tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, folder / "index")
    return call("engine_cases:packed_samples", *arguments)[0]


def test_positions_start_again_at_every_document(samples):
    assert torch.equal(samples["position_ids"], plain.position_ids(samples["tokens"]))


def test_the_loss_leaves_out_the_labels_that_begin_another_document_and_no_others(samples):
    assert torch.equal(samples["loss_mask"] == 0, samples["labels"] == BEGIN)
    assert set(samples["loss_mask"].unique().tolist()) == {0.0, 1.0}
    assert (samples["labels"] == 0).any()  # the id that is padding elsewhere counts here


def test_labels_are_the_next_tokens(samples):
    assert torch.equal(samples["labels"][:, :-1], samples["tokens"][:, 1:])


def test_every_run_of_tokens_is_a_piece_of_a_document(samples, odd_documents):
    """Runs between two documents' edges are whole documents."""
    words = {" ".join(map(str, document)) for document in odd_documents}
    padded = [f" {word} " for word in words]
    for row, last in zip(
        samples["tokens"].tolist(), samples["labels"][:, -1].tolist(), strict=True
    ):
        text = " ".join(map(str, [*row, last, ""]))  # every token is followed by a blank
        runs = [run.strip() for run in text.replace(f" {BEGIN} ", f"\n{BEGIN} ").split("\n")]
        assert set(runs[1:-1]) <= words
        assert all(any(f" {run} " in word for word in padded) for run in (runs[0], runs[-1]))


def test_every_validation_sees_the_same_samples(call, tokens, held_out, tmp_path):
    once, asked = 6, 20
    found = call("runtime_cases:provided", tokens, held_out, tmp_path, LENGTH, once, asked)[0]
    arguments = (held_out, once, LENGTH, 1, VOCAB_SIZE, tmp_path / "again")
    expected = call("engine_cases:packed_samples", *arguments)[0]["tokens"]
    assert len({tuple(row) for row in expected.tolist()}) == once
    assert torch.equal(found["validation"], expected.repeat(4, 1)[:asked])
    assert len(found["train"]) == asked + 1  # one more than is read
    assert len({tuple(row) for row in found["train"].tolist()}) == asked
    assert found["test"] is None


def test_without_held_out_text_there_is_no_validation(call, tokens, tmp_path):
    found = call("runtime_cases:provided", tokens, None, tmp_path, LENGTH, 6, 20)[0]
    assert found["validation"] is None


@pytest.mark.parametrize(
    "layout",
    [ParallelConfig(), ParallelConfig(tensor=2), ParallelConfig(pipeline=2)],
    ids=["one process", "tensor=2", "pipeline=2"],
)
@pytest.mark.parametrize("family", ["mistral", "llama"])  # mistral: with a sliding window
def test_a_document_changes_no_other_documents_logits(call, make_model, family, layout):
    model = make_model(family, seed=4, **STUDENT)
    shortest = sorted(random_documents(5), key=len)[:5]
    row = [token for document in shortest for token in document]
    documents = torch.tensor(plain.documents_of(torch.tensor(row)))
    assert len(documents.unique()) >= 3
    rows = torch.tensor([row] * (1 + len(documents.unique())))
    for number in documents.unique().tolist():
        inner = (documents == number) & (rows[0] > END_OF_DOCUMENT)
        rows[1 + number, inner] = 3 + (rows[0, inner] + 7) % (VOCAB_SIZE - 3)
    positions = plain.position_ids(rows)
    assert torch.equal(positions[0], positions[-1])  # the edges stayed where they were
    arguments = (model, layout, rows, positions)
    found = call("runtime_cases:logits_of_packed", *arguments, parallel=layout)[-1]
    for number in documents.unique().tolist():
        change = (found[1 + number] - found[0]).abs().amax(dim=-1)
        assert change[documents != number].max() < 1e-5
        assert change[documents == number].max() > 1
    with torch.no_grad():
        expected = plain.packed_logits(plain.load(model), rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
