"""On GPUs: training, packing and scores agree with plain transformers on the CPU in float64."""

import importlib.util
import json
from typing import Any

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import STUDENT, TEACHER, VOCAB_SIZE
from score_reference import expected_scores

from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.training import OptimConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
HAS_TRANSFORMER_ENGINE = importlib.util.find_spec("transformer_engine") is not None
LENGTH, BATCH, STEPS = 32, 8, 6
HEAD_DIM = {"head_dim": 16}  # the kernels for packed text ask for a multiple of 8
#: Nothing but Adam itself, which plain torch has too.
OPTIM = {"decay": "constant", "warmup_iters": 0, "weight_decay": 0.0, "clip_grad": 0.0}
LEARNING_RATE = 1e-3


@pytest.fixture(scope="module")
def student(make_model):
    return make_model(**STUDENT | HEAD_DIM)


@pytest.fixture(scope="module")
def teacher(make_model):
    return make_model(seed=1, **TEACHER | HEAD_DIM)


@pytest.fixture(scope="module")
def sequences(call, tokens, tmp_path_factory):
    """The sequences of all steps, [steps · batch, s]."""
    arguments = (tokens, STEPS * BATCH, LENGTH, 1, VOCAB_SIZE, tmp_path_factory.mktemp("index"))
    return call("engine_cases:packed_samples", *arguments)[0]["tokens"]


@pytest.fixture(scope="module")
def losses(lanes, tokens, student, teacher, tmp_path_factory):
    """Return a function that distils with some settings and returns the losses of the steps."""

    def run(**changes: Any) -> list[float]:
        output = tmp_path_factory.mktemp("run") / "output"
        settings = {
            "iters": STEPS,
            "sequence_length": LENGTH,
            "global_batch_size": BATCH,
            "micro_batch_size": 2,
            "optim": OptimConfig(max_lr=LEARNING_RATE, min_lr=LEARNING_RATE, **OPTIM),
        }
        paths = {"model": student, "teacher": teacher, "train_data": tokens, "output": output}
        lanes.run("nemo_bielik.distill.stage:distill", DistillConfig(**paths, **settings | changes))
        lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    return run


def test_fp32_distillation_has_the_losses_of_plain_transformers_on_the_cpu(
    losses, sequences, student, teacher
):
    model, target = plain.load(student), plain.load(teacher)
    adam = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), eps=1e-8)
    expected = []
    for batch in sequences.split(BATCH):
        with torch.no_grad():
            wanted = plain.packed_logits(target, batch)
        values = plain.token_kl(plain.packed_logits(model, batch), wanted, temperature=1.0)
        loss = plain.masked_mean(values, batch)
        adam.zero_grad()
        loss.backward()
        adam.step()
        expected.append(loss.item())
    with torch.no_grad():
        untrained = plain.packed_logits(plain.load(student), batch)
    still = plain.masked_mean(plain.token_kl(untrained, wanted, temperature=1.0), batch).item()
    assert abs(still / expected[-1] - 1) > 1e-2, "training changes the loss too little to be seen"
    assert losses() == pytest.approx(expected, rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_gpus_that_share_sequences_have_the_losses_of_one(losses):
    assert losses(parallel=ParallelConfig(context=2)) == pytest.approx(losses(), rel=1e-3)


def test_bf16_distillation_learns(losses):
    found = losses(precision="bf16", iters=60)
    assert len(found) == 60
    assert np.isfinite(found).all()
    assert np.mean(found[-10:]) < 0.9 * np.mean(found[:10])


@pytest.mark.skipif(not HAS_TRANSFORMER_ENGINE, reason="Transformer Engine is not installed")
def test_packed_attention_gives_the_logits_of_the_dense_mask(call, student, sequences):
    tokens = sequences[:BATCH]
    model = plain.load(student)
    positions = plain.position_ids(tokens)
    with torch.no_grad():
        dense = plain.packed_logits(model, tokens)
        leaking = model(tokens, position_ids=positions).logits  # causal, and nothing else
    found = call("gpu_cases:bf16_logits", student, tokens, positions)[0].double()
    assert (leaking - dense).norm() > 0.2 * dense.norm()
    assert (found - dense).norm() < 0.05 * dense.norm()


def test_scores_are_those_of_plain_transformers(lanes, student, tokens, sequences, tmp_path):
    """With Transformer Engine in bf16, which its packed attention asks for; its norms are fused."""
    precision, tolerance = ("bf16", 0.05) if HAS_TRANSFORMER_ENGINE else ("fp32", 1e-3)
    config = ScoreConfig(
        model=student,
        data=tokens,
        output=tmp_path / "output",
        samples=len(sequences),
        sequence_length=LENGTH,
        precision=precision,
    )
    lanes.run("nemo_bielik.pruning.score:score", config)
    found = ScoreTable.load(tmp_path / "output" / SCORES_NAME)
    for name, array in expected_scores(student, sequences).items():
        np.testing.assert_allclose(getattr(found, name), array, rtol=tolerance, err_msg=name)
