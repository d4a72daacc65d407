"""Packed pairs on the engine are pairs answer by answer in transformers, on any layout."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import END_OF_DOCUMENT, VOCAB_SIZE, write_tokens
from safetensors.torch import load_file

from nemo_bielik.align.dpo import DpoConfig
from nemo_bielik.align.reference import ReferenceConfig, ReferenceLogProbs
from nemo_bielik.distill.cache_format import Fragments
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import sibling
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import OptimConfig

DPO = "nemo_bielik.align.dpo:dpo"
REFERENCE = "nemo_bielik.align.reference:reference"
LENGTH, BATCH, BETA, LAMBDA = 48, 2, 0.2, 3.0
TENSOR, PIPELINE, DATA, CONTEXT = (
    ParallelConfig(**{x: 2}) for x in ("tensor", "pipeline", "data", "context")
)
#: Documents and which of their tokens are learned, pair by pair.
Answers = list[tuple[list[int], list[int]]]


def random_pairs(seed: int, count: int) -> Answers:
    """A prompt of 3 to 8 tokens and two answers of 2 to 9, the last token of which is silent."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        prompt = [1, *generator.integers(3, VOCAB_SIZE, generator.integers(2, 8)).tolist()]
        for _ in range(2):
            answer = generator.integers(3, VOCAB_SIZE, generator.integers(2, 10)).tolist()
            found.append(
                (
                    [*prompt, *answer, END_OF_DOCUMENT, 3],
                    [0] * len(prompt) + [1] * len(answer) + [1, 0],
                )
            )
    return found


ANSWERS = random_pairs(3, 7)
WEIGHTS = [1.0, 1.0, 2.0, 2.0, 0.5, 0.5, *[1.0] * 8]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    documents, learned = zip(*ANSWERS, strict=True)
    directory = tmp_path_factory.mktemp("pairs") / "tokens"
    return write_tokens(directory, list(documents), list(learned), WEIGHTS, pairs=True)


@pytest.fixture(scope="module")
def store(lanes, teacher, pairs, tmp_path_factory):
    """Return a function that makes the reference of another model than the policy."""

    def make(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("reference") / "reference"
        values: dict[str, Any] = {"model": teacher, "data": pairs, "output": output}
        values |= {"sequence_length": LENGTH, "shard_rows": 1, **changes}
        lanes.run(REFERENCE, ReferenceConfig(**values))
        return Path(values["output"])

    return make


@pytest.fixture(scope="module")
def reference(store) -> Path:
    return store()


@pytest.fixture(scope="module")
def run(lanes, assistant, pairs, tmp_path_factory):
    def run(**changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        values: dict[str, Any] = {
            "model": assistant,
            "train_data": pairs,
            "output": output,
            "epochs": 2,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "beta": BETA,
            "positive_weight": LAMBDA,
            "optim": OptimConfig(max_lr=1e-3, min_lr=1e-3, warmup_iters=0, clip_grad=0.0),
        }
        values |= changes
        lanes.run(DPO, DpoConfig(**values))
        return Path(values["output"])

    return run


def lines(output: Path) -> list[dict[str, Any]]:
    text = (output / "training" / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def log_prob(model: Any, tokens: list[int], learned: list[int]) -> torch.Tensor:
    """The sum over an answer's tokens, its document alone in a row."""
    ids = torch.tensor([tokens])
    surprise = plain.token_surprise(model(ids).logits[:, :-1], ids[:, 1:])[0]
    return -(surprise * torch.tensor(learned[1:])).sum()


@pytest.fixture(scope="module")
def live(teacher) -> list[float]:
    """Every answer under the live reference."""
    model = plain.load(teacher)
    with torch.no_grad():
        return [float(log_prob(model, *answer)) for answer in ANSWERS]


def stored(directory: Path) -> list[float]:
    """Every answer as it is found by its content."""
    found = ReferenceLogProbs(directory)
    values = []
    for tokens, learned in ANSWERS:
        mask = np.array([*learned[1:], 0])
        answer = Fragments.of(np.array(tokens), np.arange(len(tokens)), mask)
        values += found.read(answer).tolist()
    return values


def test_stored_log_probabilities_are_the_live_references(store, reference, live):
    assert stored(reference) == pytest.approx(live, rel=1e-5)
    two_rows: dict[str, Any] = {"micro_batch_size": 2}
    for changes in ({"parallel": TENSOR}, {"parallel": DATA} | two_rows, {"parallel": CONTEXT}):
        assert stored(store(**changes)) == pytest.approx(live, rel=1e-5), changes
    results = Manifest.load(reference).results
    assert results["pairs"] == 7 and results["answers"] == 14
    assert results["mean_log_prob"] == pytest.approx(np.mean(live), rel=1e-5)


def by_definition(model: Any, live: list[float], pairs: list[int]) -> tuple[Any, list[float]]:
    """The weighted mean of the paper's loss over pairs, each answer alone; and every margin."""
    total, margins = torch.zeros((), dtype=torch.float64), []
    for pair in pairs:
        won, lost = (log_prob(model, *ANSWERS[n]) - live[n] for n in (2 * pair, 2 * pair + 1))
        gap = won - lost - LAMBDA * torch.relu(-won)
        total = total - WEIGHTS[2 * pair] * torch.nn.functional.logsigmoid(BETA * gap)
        margins.append(BETA * (won - lost).item())
    return total / len(pairs), margins


def pairs_of_first_step(pairs: Path) -> list[int]:
    """The pairs that the first batch packs, from the plan alone."""
    from nemo_bielik.data.packing import pack, pair_pieces

    lengths = np.array([len(tokens) for tokens, _ in ANSWERS], np.int32)
    rows = pack(pair_pieces(lengths, LENGTH), LENGTH, seed=1, epoch=0)
    first = np.concatenate([rows[number] for number in range(BATCH)])
    return (first["document"] // 2).tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel": TENSOR},
        {"parallel": PIPELINE},
        {"parallel": DATA},
        {"parallel": CONTEXT},
        {"micro_batch_size": 2},
        {"parallel": CONTEXT, "micro_batch_size": 2},
    ],
    ids=[
        *("one process", "tensor=2", "pipeline=2", "data=2", "context=2", "two rows at once"),
        "context=2, two rows at once",
    ],
)
def test_loss_and_gradients_are_those_of_answers_run_alone(
    run, reference, assistant, live, pairs, changes
):
    """Two rows that hold several pairs each; the first step, before any weight has moved."""
    output = run(reference=reference, other_reference=True, iters=1, **changes)
    model, chosen = plain.load(assistant), pairs_of_first_step(pairs)
    assert len(chosen) > BATCH
    loss, margins = by_definition(model, live, chosen)
    loss.backward()
    (line,) = lines(output)
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(plain.gradient_norm(model), rel=1e-4)
    assert line["margin"] == pytest.approx(np.mean(margins), rel=1e-4)
    assert line["accuracy"] == pytest.approx(np.mean([margin > 0 for margin in margins]))


def test_runs_of_ranks_that_share_vocabulary_or_rows_learn_the_same(run, reference):
    layouts = (ParallelConfig(), TENSOR, CONTEXT)
    settings = {"reference": reference, "other_reference": True, "iters": 3}
    one, *others = (run(**settings, parallel=layout) for layout in layouts)
    losses = [line["loss"] for line in lines(one)]
    assert len(losses) == 3
    for other in others:
        assert losses == pytest.approx([line["loss"] for line in lines(other)], rel=1e-4)
        weights = load_file(other / "model.safetensors")
        for name, weight in load_file(one / "model.safetensors").items():
            torch.testing.assert_close(weight, weights[name], rtol=1e-3, atol=2e-4)


def test_a_run_makes_its_own_reference_and_another_uses_it(run, assistant, pairs, tmp_path):
    """The policy is its reference then: every margin is 0, every loss log 2."""
    settings = {"validation_data": pairs, "eval_interval": 1, "eval_iters": 1}
    output = run(output=tmp_path / "first", iters=2, **settings)
    first = next(line for line in lines(output) if "loss" in line)
    weight = np.mean([WEIGHTS[2 * pair] for pair in pairs_of_first_step(pairs)])
    assert first["loss"] == pytest.approx(weight * math.log(2), rel=1e-3)
    assert abs(first["margin"]) < 1e-4 and abs(first["positive_term"]) < 1e-3
    made = tmp_path / "first-reference"
    assert Manifest.load(made).stage == "reference"
    judged = [line for line in lines(output) if "validation_loss" in line]
    assert {"validation_margin", "validation_accuracy"} <= judged[0].keys()
    again = run(reference=made, iters=2)
    assert lines(again)[0]["loss"] == pytest.approx(first["loss"], rel=1e-6)
    with pytest.raises(DataError, match="holds pairs of at most 48 tokens"):
        ReferenceLogProbs(made).require({"train_data": pairs}, 49)


def test_another_models_reference_is_taken_only_if_told(run, reference):
    with pytest.raises(DataError, match=r"was not made by .*other_reference=true if another"):
        run(reference=reference, iters=1)
    with pytest.raises(ConfigError, match="other_reference=true needs reference"):
        run(other_reference=True)


def test_an_interrupted_reference_goes_on_with_the_missing_parts(store, reference, tmp_path):
    """What lies in the work directory of the same recipe is taken as it is."""
    output = tmp_path / "reference"
    done = store(output=output)
    work = sibling(output, "work")
    assert not work.exists() and stored(done) == stored(reference)
    manifest = Manifest.load(done)
    for path in output.iterdir():
        path.unlink()
    output.rmdir()
    work.mkdir()
    manifest.save(work)
    from nemo_bielik.align.reference import ANSWER

    invented = np.zeros(1, ANSWER)
    invented["key"] = b"0123456789abcdef"
    np.save(work / "part-00000.npy", invented)
    store(output=output)
    assert Manifest.load(output).results["answers"] < 14 + 1  # the first part was not made again
    assert b"0123456789abcdef" in np.load(output / "keys.npy").tolist()


def test_one_process_at_a_time_makes_a_reference(call, teacher, pairs, tmp_path):
    config = ReferenceConfig(
        model=teacher, data=[pairs], output=tmp_path / "reference", sequence_length=LENGTH
    )
    (said,) = call("reference_cases:refused", config)
    assert said.startswith(f"{config.output}: another process works on it; wait for its end")
    assert not config.output.exists()


def test_pairs_are_told_from_other_text(pairs, tokens, assistant, run, tmp_path):
    from nemo_bielik.training import TrainConfig, prepare

    settings = {"model": assistant, "output": tmp_path / "out", "sequence_length": 32}
    with pytest.raises(ConfigError, match=r"train_data .* holds preference pairs.*bielik dpo"):
        prepare("train", TrainConfig(train_data=[pairs], **settings), {})
    with pytest.raises(ConfigError, match=r"train_data .* holds no preference pairs"):
        run(train_data=tokens)


def test_pairs_longer_than_a_sequence_stop_the_run_or_are_skipped(run):
    lengths = [len(ANSWERS[n][0]) + len(ANSWERS[n + 1][0]) for n in range(0, 14, 2)]
    short = max(lengths) - 1
    count = sum(length > short for length in lengths)
    assert 0 < count < 7
    with pytest.raises(DataError, match=rf"{count} of 7 examples have no place.*unfit=skip"):
        run(sequence_length=short)
    output = run(sequence_length=short, unfit="skip", epochs=1)
    (packing,) = Manifest.load(output).results["packing"]
    assert packing["left_out"] == count and packing["pairs"] == 7 - count
    assert packing["epochs"] == 1 and len(lines(output)) == -(-packing["rows"] // BATCH)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
        ({"positive_weight": -1.0}, "positive_weight is -1.0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"packing": "cut"}, "packing=cut would cut examples"),
        ({"sequence_length": 50, "parallel": CONTEXT}, "multiple of 2 × parallel.context = 4"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        DpoConfig(model="m", train_data=["t"], output="o", **changes)
