"""Adapters train the same however the model is split; what is exported is what was trained."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import plain_reference as plain
import pytest
import torch
from engine_room import STUDENT, VOCAB_SIZE
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import LoraConfig, OptimConfig, TrainConfig

DISTILL = "nemo_bielik.distill.stage:distill"
TRAIN = "nemo_bielik.training:train"
LENGTH, BATCH, STEPS, RANK = 32, 8, 6, 2
LAYOUTS = {
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
    "data=2": ParallelConfig(data=2),
}


@pytest.fixture(scope="module")
def settings(tokens, held_out, student):
    return {
        "model": student,
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": 4,
        "eval_interval": STEPS,
        "eval_iters": 1,
        # the norm is not cut, and the rate is high enough that a wrong step shows
        "optim": OptimConfig(max_lr=3e-2, min_lr=3e-2, warmup_iters=0, clip_grad=0.0),
        "lora": LoraConfig(rank=RANK, alpha=6.0),
    }


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, settings, teacher):
    """Return a function that trains or distils with some settings changed; it gives the output."""

    def run(stage: str = TRAIN, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        values = {"output": output} | settings | changes
        if stage == DISTILL:
            lanes.run(stage, DistillConfig(**{"teacher": teacher} | values))
        else:
            lanes.run(stage, TrainConfig(**values))
        return Path(values["output"])

    return run


@pytest.fixture(scope="module")
def runs(run):
    return {stage: run(stage) for stage in (TRAIN, DISTILL)}


@pytest.fixture(scope="module")
def rows(call, held_out, tokens, tmp_path_factory):
    """The first training batch and the validation batch, field by field."""
    cache = tmp_path_factory.mktemp("index")
    found = {}
    for name, text, samples in (("train", tokens, STEPS * BATCH), ("held out", held_out, BATCH)):
        arguments = (text, samples, LENGTH, 1, VOCAB_SIZE, cache)
        batch = call("engine_cases:packed_samples", *arguments)[0]
        found[name] = {field: values[:BATCH] for field, values in batch.items()}
    return found


def values(output: Path, name: str) -> list[float]:
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    return [line[name] for line in map(json.loads, lines) if name in line]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def plain_loss(directory: Path, batch: dict[str, Any], teacher: Path | None = None) -> float:
    """Return the mean loss of a model directory in plain transformers."""
    with torch.no_grad():
        logits = plain.packed_logits(plain.load(directory), batch["tokens"])
        if teacher is None:
            surprise = plain.token_surprise(logits, batch["labels"])
        else:
            wanted = plain.packed_logits(plain.load(teacher), batch["tokens"])
            surprise = plain.token_kl(logits, wanted, 1.0)
    return plain.masked_mean(surprise, batch["tokens"]).item()


@pytest.mark.parametrize("stage", [TRAIN, DISTILL])
def test_what_is_exported_is_what_was_trained(runs, rows, student, teacher, stage):
    """The first loss is that of the start, the validation after the last step of the export."""
    reference = teacher if stage == DISTILL else None
    before = plain_loss(student, rows["train"], reference)
    after = plain_loss(runs[stage], rows["held out"], reference)
    assert values(runs[stage], "loss")[0] == pytest.approx(before, rel=1e-5)
    assert values(runs[stage], "validation_loss")[-1] == pytest.approx(after, rel=1e-5)
    untrained = plain_loss(student, rows["held out"], reference)
    assert abs(after - untrained) > 0.01


@pytest.mark.parametrize("stage", [TRAIN, DISTILL])
def test_only_projections_move_and_by_no_more_than_the_rank(runs, student, stage):
    before, after = weights(student), weights(runs[stage])
    assert before.keys() == after.keys()
    for name, start in before.items():
        if "_proj" not in name:
            assert torch.equal(after[name], start), name
            continue
        parts = np.linalg.svd((after[name] - start).double().numpy(), compute_uv=False)
        assert parts[RANK - 1] > 1e-3, name
        assert parts[RANK] < 1e-4 * parts[0], name


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stage", [TRAIN, DISTILL])
def test_adapters_train_the_same_however_the_work_is_split(run, runs, stage, layout):
    found, expected = run(stage, parallel=LAYOUTS[layout]), runs[stage]
    for name, tolerance in (("loss", 1e-5), ("validation_loss", 1e-5), ("grad_norm", 1e-4)):
        wanted = values(expected, name)
        assert values(found, name) == pytest.approx(wanted, rel=tolerance), name
    assert len(set(values(expected, "loss"))) == STEPS  # it did move
    wanted = weights(expected)
    for name, tensor in weights(found).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-4)


def test_the_first_gradients_are_those_of_b(runs, rows, student):
    """B is zero, so A has none yet; ∂L/∂B is (α / r)·∂L/∂W·Aᵀ, and A is drawn by layer and place.

    The norm over all B's is computed from plain autograd and the documented draw of A.
    """
    model, batch = plain.load(student), rows["train"]
    surprise = plain.token_surprise(plain.packed_logits(model, batch["tokens"]), batch["labels"])
    plain.masked_mean(surprise, batch["tokens"]).backward()
    total = 0.0
    for number, layer in enumerate(model.model.layers, start=1):
        attention, mlp = layer.self_attn, layer.mlp
        fused = ([attention.o_proj], [attention.q_proj, attention.k_proj, attention.v_proj])
        fused += ([mlp.gate_proj, mlp.up_proj], [mlp.down_proj])
        for place, projections in enumerate(fused):
            gradient = torch.cat([projection.weight.grad for projection in projections])
            shape = (RANK, gradient.size(1))
            drawn = np.random.default_rng([1, number, place]).standard_normal(shape)
            a = torch.from_numpy(drawn * (2 / sum(shape)) ** 0.5)
            total += float((6.0 / RANK * gradient @ a.T).square().sum())
    assert values(runs[TRAIN], "grad_norm")[0] == pytest.approx(total**0.5, rel=1e-4)


def test_a_run_that_broke_off_continues_bit_for_bit(call, run, settings, tmp_path):
    """The checkpoint holds adapters alone; the frozen weights come from the start again."""
    parallel = LAYOUTS["tensor=2"]
    saved = settings | {"save_interval": 2, "async_save": False, "parallel": parallel}
    expected = run(**saved)
    config = TrainConfig(**saved, output=tmp_path / "output")
    passes = 5 * BATCH // config.micro_batch_size
    call("stopped_cases:train_until", config, passes, parallel=parallel)
    checkpoint = work_directory(config.output) / "checkpoints" / "iter_0000004"
    stored = FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    kept = [name for name in stored if name.endswith(".weight") and "optimizer" not in name]
    assert len([name for name in kept if ".adapter." in name]) == len(kept) > 0
    found = run(**saved, output=config.output)
    assert values(found, "loss") == values(expected, "loss")
    assert (found / "model.safetensors").read_bytes() == (
        expected / "model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("layout", ["tensor=2", "pipeline=2"])
def test_tied_embeddings_stay_as_they_are(run, make_model, layout):
    tied = make_model(seed=3, tie_word_embeddings=True, **STUDENT)
    found = run(model=tied, parallel=LAYOUTS[layout])
    name = "model.embed_tokens.weight"
    assert torch.equal(weights(found)[name], weights(tied)[name])


def test_the_best_weights_are_merged_at_every_export(run, rows):
    """Two exports of one run: the second must see what was trained since."""
    found = run(keep="best", eval_interval=2)
    best = min(values(found, "validation_loss"))
    assert plain_loss(found, rows["held out"]) == pytest.approx(best, rel=1e-5)


def test_the_stock_engine_is_refused_in_one_line(run):
    with pytest.raises(ConfigError, match=r"lora\.rank needs engine=bielik") as caught:
        run(DISTILL, engine="stock")
    assert "\n" not in str(caught.value)
