"""Packed rows teach what their documents teach one by one; blends have their shares."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import END_OF_DOCUMENT, VOCAB_SIZE, random_documents, write_tokens

from nemo_bielik.manifest import Manifest
from nemo_bielik.training import OptimConfig, TrainConfig

TRAIN = "nemo_bielik.training:train"
LENGTH, BATCH = 32, 4


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Longer and shorter than a row; the token that ends documents stands within some too."""
    found = random_documents(7, 40)
    for document in found[::3]:
        document[len(document) // 2] = END_OF_DOCUMENT
    return [*found, [1, *range(3, 3 + LENGTH - 2), END_OF_DOCUMENT], [1, *[9] * 70, 2]]


@pytest.fixture(scope="module")
def learned(documents: list[list[int]]) -> list[list[int]]:
    """Which tokens the assistant said: about half of each, nothing of the last one's first row."""
    generator = np.random.default_rng(0)
    found = [generator.integers(0, 2, len(document)).tolist() for document in documents]
    found[-1] = [0] * 40 + [1] * 32
    return [[*marks[:1], 1, *marks[2:]] for marks in found[:-1]] + found[-1:]


@pytest.fixture(scope="module")
def texts(documents, tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("texts") / "tokens", documents)


@pytest.fixture(scope="module")
def conversations(documents, learned, tmp_path_factory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("chat") / "tokens", documents, learned)


@pytest.fixture(scope="module")
def read(call, tmp_path_factory):
    def read(tokens: Path, packing: str = "auto", samples: int = 60) -> list[dict[str, Any]]:
        cache = tmp_path_factory.mktemp("index")
        arguments = (tokens, samples, LENGTH, 1, VOCAB_SIZE, cache, packing)
        samples_of = call("engine_cases:packed_samples", *arguments)[0]
        return plain.rows_of(samples_of, 0, samples)

    return read


def pieces_of(documents: list[list[int]], learned: list[list[int]] | None) -> list[Any]:
    """Return (tokens, labels that count) of every piece: texts are cut, conversations truncated."""
    found = []
    for number, document in enumerate(documents):
        marks = [1] * len(document) if learned is None else learned[number]
        starts = range(0, len(document) - 1, LENGTH) if learned is None else [0]
        for start in starts:
            here = slice(start, start + LENGTH)
            after = slice(start + 1, start + LENGTH + 1)
            labels = [t for t, m in zip(document[after], marks[after], strict=True) if m]
            found.append((document[here], labels))
    return sorted(piece for piece in found if piece[1])


@pytest.mark.parametrize("kind", ["texts", "conversations"])
def test_rows_hold_every_piece_whole(read, texts, conversations, documents, learned, kind):
    chat = kind == "conversations"
    rows = read(conversations if chat else texts, "auto" if chat else "whole")
    expected = pieces_of(documents, learned if chat else None)
    found = []
    for row in rows:
        for piece in plain.segments(row):
            tokens, mask = piece["tokens"].tolist(), piece["loss_mask"]
            labels = piece["labels"][mask == 1].tolist()
            assert piece["position_ids"].tolist() == list(range(len(tokens)))
            if labels:
                found.append((tokens, labels))
            else:
                assert set(tokens) <= {END_OF_DOCUMENT}  # padding, at the end of its row
                assert torch.equal(row["tokens"][-len(tokens) :], piece["tokens"])
    # several epochs are read, each has every piece once
    assert sorted(found[: len(expected)]) == expected
    assert found[: len(expected)] != found[len(expected) : 2 * len(expected)]
    assert len(found) > len(expected)


@pytest.fixture(scope="module")
def run(lanes, student, tmp_path_factory):
    def run(data: Any, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        values: dict[str, Any] = {
            "model": student,
            "train_data": data,
            "output": output,
            "iters": 2,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "micro_batch_size": 2,
            "optim": OptimConfig(max_lr=1e-3, min_lr=1e-3, warmup_iters=0, clip_grad=0.0),
        }
        lanes.run(TRAIN, TrainConfig(**values | changes))
        return output

    return run


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "training" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("kind", ["cut", "whole", "conversations"])
def test_loss_and_gradients_are_those_of_single_documents(
    read, run, tokens, texts, conversations, student, kind
):
    data = {"cut": tokens, "whole": texts, "conversations": conversations}[kind]
    packing = "auto" if kind == "conversations" else kind
    output = run(data, packing=packing)
    model = plain.load(student)
    # as many as the run asks for: Megatron shuffles the epochs that it needs together
    loss = plain.unpacked_loss(model, read(data, packing, 2 * BATCH)[:BATCH])
    loss.backward()
    assert lines(output)[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert lines(output)[0]["grad_norm"] == pytest.approx(plain.gradient_norm(model), rel=1e-4)


def test_what_was_truncated_and_wasted_is_counted(run, conversations, documents, learned):
    (found,) = Manifest.load(run(conversations)).results["packing"]
    long = [document for document in documents if len(document) > LENGTH + 1]
    assert found["truncated"] == len(long) >= 2
    assert found["truncated_tokens"] == sum(len(document) - LENGTH - 1 for document in long)
    assert found["left_out"] == 1  # nothing of it is learned within a row
    assert found["documents"] == len(documents)
    used = sum(len(tokens) for tokens, _ in pieces_of(documents, learned))
    assert found["waste"] == pytest.approx(1 - used / (found["rows"] * LENGTH), abs=1e-6)
    assert found["epochs"] == 1


def tokens_read(call: Any, *arguments: Any, **more: Any) -> Any:
    return call("packing_cases:training_rows", *arguments, **more)[0]["tokens"]


def test_a_blend_gives_each_source_its_share(call, tmp_path):
    """The sources have no token in common."""
    sources = [
        write_tokens(tmp_path / str(token), [[token] * 20 + [2]] * count)
        for token, count in ((5, 30), (6, 10))
    ]
    arguments = (sources, [0.7, 0.3], 50, LENGTH, tmp_path / "index")
    rows = tokens_read(call, *arguments)
    first = torch.tensor([(row == 5).any() for row in rows]).cumsum(0)
    assert not any((row == 5).any() and (row == 6).any() for row in rows)
    assert (first - 0.7 * torch.arange(1, 51)).abs().max() < 1
    by_tokens = tokens_read(call, sources, [], *arguments[2:])
    assert abs(sum(bool((row == 5).any()) for row in by_tokens) - 0.75 * 50) < 1
    # a later phase reads its rows from the beginning, behind those of the phases before
    later = tokens_read(call, *arguments, first_sample=13)
    assert torch.equal(later, rows)


def test_a_run_on_text_and_conversations(run, tokens, conversations):
    output = run([tokens, conversations], train_weights=[0.5, 0.5])
    assert len(lines(output)) == 2
    inputs = Manifest.load(output).inputs
    assert {"train_data[0]", "train_data[1]"} <= set(inputs)
