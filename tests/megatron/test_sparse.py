"""Zeros that training starts with stay exactly zero, and what is left of the model learns."""

import json
from pathlib import Path
from typing import Any

import plain_reference as plain
import pytest
import torch
from engine_room import STUDENT, VOCAB_SIZE
from safetensors.torch import load_file

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import DataError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.magnitude import prune_weight
from nemo_bielik.pruning.sparsity import Sparsity, projections
from nemo_bielik.training import OptimConfig, TrainConfig

DISTILL = "nemo_bielik.distill.stage:distill"
TRAIN = "nemo_bielik.training:train"
LENGTH, BATCH, STEPS = 32, 8, 4
TENSOR, PIPELINE, DATA = (
    ParallelConfig(tensor=2),
    ParallelConfig(pipeline=2),
    ParallelConfig(data=2),
)


@pytest.fixture(scope="module")
def sparse(make_model, edit_weights) -> Path:
    """Half of the weights zero: 2:4 in the attention, anywhere in the MLP."""
    model = make_model(seed=11, **STUDENT)
    with edit_weights(model) as weights:
        for name in projection_names(model):
            pattern = "2:4" if "self_attn" in name else ""
            weights[name] = prune_weight(weights[name], Sparsity.parse(0.5, pattern))
    return model


def projection_names(model: Path) -> list[str]:
    return [row.name for row in projections(Checkpoint.open(model).arch)]


@pytest.fixture(scope="module")
def settings(tokens, held_out, sparse):
    return {
        "model": sparse,
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": 2,
        "eval_interval": 2,
        "eval_iters": 1,
        "keep_zeros": True,
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1, clip_grad=0.5),
    }


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, settings, teacher):
    """Return a function that trains with some settings changed and returns the weights."""

    def run(stage: str = TRAIN, **changes: Any) -> dict[str, torch.Tensor]:
        output = tmp_path_factory.mktemp("run") / "output"
        values = settings | {"output": output} | changes
        if stage == DISTILL:
            lanes.run(stage, DistillConfig(teacher=teacher, **values))
        else:
            lanes.run(stage, TrainConfig(**values))
        return load_file(values["output"] / "model.safetensors")

    return run


@pytest.fixture(scope="module")
def trained(run):
    return run()


@pytest.fixture(scope="module")
def distilled(run):
    return run(DISTILL)


def assert_zeros_kept(sparse: Path, found: dict[str, torch.Tensor], moved: float = 0.99) -> None:
    before = load_file(sparse / "model.safetensors")
    for name in projection_names(sparse):
        zeros = before[name] == 0
        assert 0.45 < zeros.float().mean() < 0.55
        assert (found[name][zeros] == 0).all(), name
        assert (found[name] != before[name])[~zeros].float().mean() >= moved, name
        if "self_attn" in name:
            assert ((found[name] != 0).view(-1, 4).sum(dim=1) == 2).all(), name
    for name in before.keys() - projection_names(sparse):
        assert (found[name] != before[name]).any(), name


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, weights in expected.items():
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", [TENSOR, DATA], ids=["tensor=2", "data=2"])
def test_zeros_stay_in_training_however_it_is_split(run, sparse, trained, layout):
    found = run(parallel=layout)
    assert_zeros_kept(sparse, found)
    assert_same(found, trained)


@pytest.mark.parametrize("layout", [PIPELINE, DATA], ids=["pipeline=2", "data=2"])
def test_zeros_stay_in_distillation_however_it_is_split(run, sparse, distilled, layout):
    found = run(DISTILL, parallel=layout)
    assert_zeros_kept(sparse, found)
    assert_same(found, distilled)


def test_zeros_stay_with_the_stock_engine(run, sparse, distilled):
    found = run(DISTILL, engine="stock")
    assert_zeros_kept(sparse, found)
    assert_same(found, distilled)


def test_zeros_stay_in_bf16(run, sparse):
    assert_zeros_kept(sparse, run(precision="bf16", parallel=DATA), moved=0.9)


def test_zeros_go_where_they_are_not_kept(run, sparse):
    found, before = run(keep_zeros=False), load_file(sparse / "model.safetensors")
    for name in projection_names(sparse):
        assert (found[name][before[name] == 0] != 0).float().mean() > 0.99, name


def test_a_model_without_zeros_trains_as_ever(run, student):
    short = {"model": student, "iters": 2, "eval_interval": 0}
    kept, plainly = run(**short), run(**short, keep_zeros=False)
    assert all(torch.equal(kept[name], weights) for name, weights in plainly.items())


def test_the_gradient_norm_is_that_of_the_weights_that_are_left(
    call, run, sparse, tokens, tmp_path
):
    """So clipping does not count what will not move."""
    arguments = (tokens, STEPS * BATCH, LENGTH, 1, VOCAB_SIZE, tmp_path / "index")
    samples = call("engine_cases:packed_samples", *arguments)[0]
    rows, labels = samples["tokens"][:BATCH], samples["labels"][:BATCH]
    model = plain.load(sparse)
    plain.masked_mean(
        plain.token_surprise(plain.packed_logits(model, rows), labels), rows
    ).backward()
    everything = plain.gradient_norm(model)
    for name in projection_names(sparse):
        weight = model.get_parameter(name)
        weight.grad[weight == 0] = 0
    run(output=tmp_path / "output")
    lines = (tmp_path / "output" / "training" / "metrics.jsonl").read_text().splitlines()
    found = json.loads(lines[0])["grad_norm"]
    assert found == pytest.approx(plain.gradient_norm(model), rel=1e-4)
    assert found < 0.95 * everything


def test_a_run_that_fell_over_goes_on_with_the_zeros_it_started_from(
    lanes, run, settings, sparse, tmp_path
):
    changes = settings | {"save_interval": 2}
    config = TrainConfig(**changes, output=tmp_path / "output")
    with pytest.raises(DataError, match="fell over"):
        lanes.run("sparse_cases:train_for_three_steps", config)
    assert not config.output.exists()
    continued = run(**changes, output=config.output)
    undisturbed = run(**changes)
    assert_zeros_kept(sparse, continued)
    assert all(torch.equal(continued[name], weights) for name, weights in undisturbed.items())


@pytest.mark.parametrize("keep", ["last", "best"])
def test_zeros_that_move_are_one_line_and_nothing_is_exported(lanes, settings, tmp_path, keep):
    config = TrainConfig(**settings | {"keep": keep}, output=tmp_path / "output")
    with pytest.raises(DataError, match="weights that were zero at the start are not") as caught:
        lanes.run("sparse_cases:train_without_masks", config)
    assert "\n" not in str(caught.value)
    assert not config.output.exists()
    work = tmp_path / ".output.work"
    assert not (work / "best").exists()
    assert not (work / "last").exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_one_zero_of_one_rank_is_missed_by_all(call, sparse, rank):
    said = call("sparse_cases:move_a_zero", sparse, TENSOR, rank, parallel=TENSOR)
    assert [len(lines) for lines in said] == [1, 1]
    assert all("keep_zeros: 1 weights that were zero" in lines[0] for lines in said)
    assert "here in decoder.layers.0." in said[rank][0]
    assert "here in" not in said[1 - rank][0]
