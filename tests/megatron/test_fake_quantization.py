"""A student in few bits computes what the quantised model would; teacher and export stay exact."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import plain_reference as plain
import pytest
import torch
from engine_room import STUDENT, VOCAB_SIZE
from safetensors.torch import load_file

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.quantize import fp8, nvfp4
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig
from nemo_bielik.training import LoraConfig, OptimConfig, TrainConfig

DISTILL = "nemo_bielik.distill.stage:distill"
LENGTH, BATCH, STEPS = 32, 8, 3
#: Rows of 32 and 64: blocks of 16 fit them on two tensor ranks too.
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "num_hidden_layers": 2}
#: What Megatron and servers hold in one matrix.
JOINED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
FORMATS = {"fp8": fp8, "nvfp4": nvfp4}


@pytest.fixture(scope="module")
def model(make_model) -> Path:
    return make_model(seed=5, **(STUDENT | SHAPE))


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, tokens, held_out, model):
    """Return a function that distils the model from itself, quantised; it gives the output."""

    def run(kind: str, layout: ParallelConfig | None = None, **keep: Any) -> Path:
        output: Path = tmp_path_factory.mktemp("run") / "output"
        config = DistillConfig(
            model=model,
            teacher=model,
            train_data=[tokens],
            validation_data=held_out,
            output=output,
            iters=STEPS,
            sequence_length=LENGTH,
            global_batch_size=BATCH,
            micro_batch_size=BATCH,
            eval_interval=STEPS,
            eval_iters=1,
            optim=OptimConfig(max_lr=1e-3, min_lr=1e-3, warmup_iters=0),
            parallel=layout or ParallelConfig(),
            quantization=FakeQuantizationConfig(format=kind, **keep),
        )
        lanes.run(DISTILL, config)
        return output

    return run


@pytest.fixture(scope="module")
def distilled(run):
    return {kind: run(kind) for kind in FORMATS}


@pytest.fixture(scope="module")
def rows(call, held_out, tokens, tmp_path_factory):
    """The tokens of the first training batch and of the validation batch."""
    cache = tmp_path_factory.mktemp("index")
    found = {}
    for name, text, samples in (("train", tokens, STEPS * BATCH), ("held out", held_out, BATCH)):
        arguments = (text, samples, LENGTH, 1, VOCAB_SIZE, cache)
        found[name] = call("engine_cases:packed_samples", *arguments)[0]["tokens"][:BATCH]
    return found


def quantized(directory: Path, kind: str, layers: Collection[int] = (0, 1)) -> Any:
    """Return the plain model with every operand in `layers` rounded, joined matrices together."""
    arithmetic, model = FORMATS[kind], plain.load(directory)

    def round_input(_: Any, inputs: tuple[torch.Tensor]) -> torch.Tensor:
        values = inputs[0].float()
        return arithmetic.simulate(values, arithmetic.tensor_scale(values)).double()

    for number in layers:
        modules = dict(model.model.layers[number].named_modules())
        linears = {
            name.rpartition(".")[2]: part for name, part in modules.items() if "proj" in name
        }
        for names in JOINED:
            together = torch.cat([linears[name].weight.data.float() for name in names])
            scale = arithmetic.tensor_scale(together)
            for name in names:
                weight = linears[name].weight
                weight.data = arithmetic.simulate(weight.data.float(), scale).double()
                linears[name].register_forward_pre_hook(round_input)
    return model


@torch.no_grad()
def loss(student: Any, teacher: Path, batch: torch.Tensor) -> float:
    wanted = plain.packed_logits(plain.load(teacher), batch)
    found = plain.packed_logits(student, batch)
    return plain.masked_mean(plain.token_kl(found, wanted, 1.0), batch).item()


def values(output: Path, name: str) -> list[float]:
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    return [line[name] for line in map(json.loads, lines) if name in line]


@pytest.mark.parametrize("kind", FORMATS)
def test_the_student_is_rounded_and_the_teacher_is_not(distilled, rows, model, kind):
    expected = loss(quantized(model, kind), model, rows["train"])
    assert expected > 1e-4
    assert values(distilled[kind], "loss")[0] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_exported_is_what_was_trained_before_it_is_rounded(distilled, rows, model, kind):
    exported = quantized(distilled[kind], kind)
    expected = loss(exported, model, rows["held out"])
    assert values(distilled[kind], "validation_loss")[-1] == pytest.approx(expected, rel=0.01)
    before = load_file(model / "model.safetensors")
    after = load_file(distilled[kind] / "model.safetensors")
    assert before.keys() == after.keys()
    for name, start in before.items():
        moved = (after[name] - start).abs().max()
        assert 0 < moved <= STEPS * 1.2e-3, name  # Adam's steps, not the format's grid


def test_layers_that_are_kept_compute_as_ever(run, rows, model):
    expected = loss(quantized(model, "nvfp4", layers=[1]), model, rows["train"])
    found = values(run("nvfp4", keep_first=1), "loss")[0]
    assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("kind", FORMATS)
def test_tensor_parallel_ranks_share_their_scales(run, distilled, kind):
    found = run(kind, ParallelConfig(tensor=2))
    for name in ("loss", "validation_loss"):
        wanted = values(distilled[kind], name)
        assert values(found, name) == pytest.approx(wanted, rel=0.02), name


SETTINGS: dict[str, Any] = {"model": Path("m"), "train_data": [Path("t")], "output": Path("o")}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "nvfp"}, r"quantization.format is 'nvfp' \(did you mean 'nvfp4'\?\)"),
        ({"format": "int8"}, "training knows nvfp4 and fp8"),
        ({"keep_first": 1}, "quantization.keep means nothing without quantization.format"),
    ],
)
def test_a_format_that_cannot_be_trained_for_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        FakeQuantizationConfig(**settings)


def test_what_excludes_it_is_refused():
    rounded = FakeQuantizationConfig(format="nvfp4")
    with pytest.raises(ConfigError, match=r"lora.rank and quantization.format exclude each other"):
        TrainConfig(**SETTINGS, quantization=rounded, lora=LoraConfig(rank=2))
    with pytest.raises(ConfigError, match="engine=stock shares what is done to the student"):
        DistillConfig(**SETTINGS, teacher=Path("t"), engine="stock", quantization=rounded)


def test_ranks_that_would_cut_a_block_are_refused(lanes, make_model, tokens, tmp_path):
    narrow = make_model(**(STUDENT | SHAPE | {"intermediate_size": 48}))
    config = TrainConfig(
        **SETTINGS | {"model": narrow, "train_data": [tokens], "output": tmp_path / "output"},
        sequence_length=LENGTH,
        parallel=ParallelConfig(tensor=2),
        quantization=FakeQuantizationConfig(format="nvfp4"),
    )
    with pytest.raises(ConfigError, match=r"down_proj has rows of 48, which parallel.tensor=2"):
        lanes.run("nemo_bielik.training:train", config)
