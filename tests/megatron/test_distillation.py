"""The engine's loss is the one its settings name, in every layout; logits never exist as a whole.

Expected values are those of plain transformers in float64.
"""

import json
from pathlib import Path
from typing import Any

import plain_reference as plain
import pytest
import torch
from engine_room import STUDENT, TEACHER, VOCAB_SIZE
from safetensors.torch import load_file

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.training import LoggingConfig, OptimConfig, TrainConfig

DISTILL = "nemo_bielik.distill.stage:distill"
TRAIN = "nemo_bielik.training:train"
LENGTH, BATCH, STEPS, MICRO_BATCH = 32, 8, 2, 2
PEAK_TFLOPS = 0.01
LAYOUTS = {
    "one process": ParallelConfig(),
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
    "data=2": ParallelConfig(data=2),
}
LOSSES: dict[str, dict[str, Any]] = {
    "forward, labels, at 2": {"temperature": 2.0, "label_weight": 0.3},
    "reverse at 2": {"divergence": "reverse-kl", "temperature": 2.0},
    "jensen-shannon": {"divergence": "jensen-shannon", "beta": 0.2},
}
BINS = {
    "entropy below 0.1": (0.0, 0.1),
    "entropy 0.1 to 0.7": (0.1, 0.7),
    "entropy 0.7 to 1.6": (0.7, 1.6),
    "entropy 1.6 to 3.0": (1.6, 3.0),
    "entropy from 3.0": (3.0, float("inf")),
}


def token_losses(student, teacher, labels, settings):
    """Return the loss of every token, [b, s], as the textbook has it."""
    t, beta = settings.get("temperature", 1.0), settings.get("beta", 0.5)
    p, q = (torch.softmax(logits / t, -1) for logits in (teacher, student))
    m = beta * p + (1 - beta) * q

    def kl(first, second):
        return (first * (first / second).log()).sum(-1)

    divergence = {
        "forward-kl": kl(p, q),
        "reverse-kl": kl(q, p),
        "jensen-shannon": beta * kl(p, m) + (1 - beta) * kl(q, m),
    }[settings.get("divergence", "forward-kl")]
    share = settings.get("label_weight", 0.0)
    return (1 - share) * t**2 * divergence + share * plain.token_surprise(student, labels)


def mean_loss(student, teacher: Path, samples, settings):
    """Return the mean loss of a plain model over the counted tokens of some sequences."""
    with torch.no_grad():
        wanted = plain.packed_logits(plain.load(teacher), samples["tokens"])
    given = plain.packed_logits(student, samples["tokens"])
    values = token_losses(given, wanted, samples["labels"], settings)
    return plain.masked_mean(values, samples["tokens"])


@pytest.fixture(scope="module")
def settings(tokens, held_out):
    return {
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": MICRO_BATCH,
        "eval_interval": STEPS,
        "eval_iters": 1,
        "logging": LoggingConfig(peak_tflops=PEAK_TFLOPS),
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-2, warmup_iters=0, clip_grad=0.0),
    }


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, settings):
    """Return a function that distils and returns the output."""

    def run(student: Path, teacher: Path, **changes: Any) -> Path:
        output = tmp_path_factory.mktemp("run") / "output"
        paths = {"model": student, "teacher": teacher, "output": output}
        lanes.run(DISTILL, DistillConfig(**paths | settings | changes))
        return output

    return run


@pytest.fixture(scope="module")
def samples(call, tokens, held_out, tmp_path_factory):
    """The sequences of the first step, and those of a validation."""

    def first(text: Path, steps: int) -> dict[str, torch.Tensor]:
        arguments = (text, steps * BATCH, LENGTH, 1, VOCAB_SIZE, tmp_path_factory.mktemp("index"))
        found = call("engine_cases:packed_samples", *arguments)[0]
        return {name: rows[:BATCH] for name, rows in found.items()}

    return first(tokens, STEPS), first(held_out, 1)


def values(output: Path, name: str) -> list[float]:
    lines = map(json.loads, (output / "training" / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def assert_agrees(output: Path, student: Path, teacher: Path, samples, settings):
    """The first step in loss and gradient, and the validation of the weights that were exported."""
    model = plain.load(student)
    loss = mean_loss(model, teacher, samples[0], settings)
    loss.backward()
    assert values(output, "loss")[0] == pytest.approx(loss.item(), rel=1e-5)
    assert values(output, "grad_norm")[0] == pytest.approx(plain.gradient_norm(model), rel=1e-4)
    with torch.no_grad():
        exported = plain.load(output)
        validation = mean_loss(exported, teacher, samples[1], settings).item()
    assert values(output, "validation_loss") == pytest.approx([validation], rel=1e-5)
    assert_split_agrees(output, exported, teacher, samples[1])


def assert_split_agrees(output: Path, student, teacher: Path, samples):
    """The validation's KL by classes of tokens is forward KL at T = 1, whatever the loss was."""
    (classes,) = values(output, "classes")
    with torch.no_grad():
        wanted = plain.packed_logits(plain.load(teacher), samples["tokens"])
        given = plain.packed_logits(student, samples["tokens"])
    counts = plain.counted_tokens(samples["tokens"]).bool()
    kl = plain.token_kl(given, wanted, 1.0)[counts]
    p = torch.softmax(wanted, -1)[counts]
    entropy = -(p * p.log()).sum(-1)
    agrees = (wanted.argmax(-1) == given.argmax(-1))[counts]
    members = {"all": torch.ones_like(agrees)}
    members |= {name: (low <= entropy) & (entropy < high) for name, (low, high) in BINS.items()}
    members |= {"same top token": agrees, "another top token": ~agrees}
    assert list(classes) == [name for name, chosen in members.items() if chosen.any()]
    for name, figures in classes.items():
        chosen = members[name]
        expected = {"tokens": chosen.sum(), "share": chosen.double().mean()}
        expected |= {"kl": kl[chosen].mean(), "entropy": entropy[chosen].mean()}
        expected |= {"agreement": agrees[chosen].double().mean()}
        assert list(figures) == list(expected)
        for figure, value in expected.items():
            assert figures[figure] == pytest.approx(float(value), rel=1e-5), (name, figure)


@pytest.mark.parametrize("layout", ["one process", "tensor=2"])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_its_definition(run, samples, student, teacher, name, layout):
    output = run(student, teacher, **LOSSES[name], parallel=LAYOUTS[layout])
    assert_agrees(output, student, teacher, samples, LOSSES[name])


@pytest.fixture(scope="module")
def tied_pair(make_model):
    """Both use the embedding as output weight; five layers have no even split over two stages."""
    tied = {"tie_word_embeddings": True, "num_hidden_layers": 5}
    return make_model(seed=3, **STUDENT | tied), make_model(seed=4, **TEACHER | tied)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tied_embeddings_get_both_gradients_in_every_layout(run, samples, tied_pair, layout):
    output = run(*tied_pair, parallel=LAYOUTS[layout])
    assert_agrees(output, *tied_pair, samples, {})
    could = PEAK_TFLOPS * 1e12 * LAYOUTS[layout].processes
    shares = [rate / could for rate in values(output, "flops_per_second")]
    assert values(output, "utilisation") == pytest.approx(shares)


def test_a_teacher_in_bf16_under_a_student_in_fp32(run, call, samples, student, teacher):
    """Its weights are rounded and its forward pass runs in bf16; the student feels none of it."""
    arguments = (teacher, samples[0]["tokens"], samples[0]["position_ids"])
    theirs = call("distillation_cases:bf16_logits", *arguments)[0].double()
    with torch.no_grad():
        given = plain.packed_logits(plain.load(student), samples[0]["tokens"])
    wanted = plain.masked_mean(plain.token_kl(given, theirs, 1.0), samples[0]["tokens"]).item()
    exact = mean_loss(plain.load(student), teacher, samples[0], {}).item()
    assert abs(wanted / exact - 1) > 1e-4, "rounding shows"
    for layout in ("one process", "pipeline=2"):
        output = run(student, teacher, teacher_precision="bf16", parallel=LAYOUTS[layout])
        assert values(output, "loss")[0] == pytest.approx(wanted, rel=1e-5), layout


def test_a_teacher_in_fp32_under_a_student_in_bf16_loses_nothing_between_stages(
    run, student, teacher
):
    """Hidden states that travelled in bf16 would be another teacher's."""
    settings = {"precision": "bf16", "teacher_precision": "fp32", "iters": 1, "eval_interval": 0}
    settings["micro_batch_size"] = 1  # as several stages want it in bf16
    losses = [
        values(run(student, teacher, **settings, parallel=LAYOUTS[layout]), "loss")
        for layout in ("one process", "pipeline=2")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_teacher_costs_its_weights_and_nothing_else(call, settings, student, teacher, tmp_path):
    found = {}
    for precision in ("fp32", "bf16"):
        config = DistillConfig(
            **settings | {"iters": 1, "eval_interval": 0},
            model=student,
            teacher=teacher,
            teacher_precision=precision,
            output=tmp_path / precision,
        )
        found[precision] = call("distillation_cases:held_bytes", DISTILL, config)[0]
    weights = {path: load_file(path / "model.safetensors") for path in (student, teacher)}
    size = {path: sum(x.numel() for x in own.values()) for path, own in weights.items()}
    padding = 64 * len(weights[student])  # Megatron-Core's, of every tensor in a buffer
    for precision, width in (("fp32", 4), ("bf16", 2)):
        held = found[precision]
        assert held["teacher"] == width * size[teacher]
        assert held["teacher's gradients"] == 0
        assert 0 <= held["gradient buffers"] - 4 * size[student] <= 4 * padding
        assert held["optimizer's moments"] == 2 * 4 * size[student]


def test_bf16_goes_through_the_same_loss(run, samples, student, teacher):
    output = run(student, teacher, precision="bf16")
    loss = mean_loss(plain.load(student), teacher, samples[0], {}).item()
    assert values(output, "loss")[0] == pytest.approx(loss, rel=1e-2)
    assert values(output, "loss")[1] < values(output, "loss")[0]


@pytest.mark.parametrize("stage", [DISTILL, TRAIN])
def test_logits_never_exist_as_a_whole(call, settings, make_model, tmp_path, stage):
    """Training on labels shows that the watch sees logits where there are some."""
    heads = {"head_dim": 8}  # else queries, keys and values are as wide as the vocabulary
    student, teacher = make_model(**STUDENT | heads), make_model(seed=1, **TEACHER | heads)
    values = {"model": student, "output": tmp_path / "output"} | settings
    distils = stage == DISTILL
    config = DistillConfig(**values, teacher=teacher) if distils else TrainConfig(**values)
    eight_tokens = 8 * 2 * VOCAB_SIZE * torch.float32.itemsize
    found = call("distillation_cases:most_logits", stage, config, eight_tokens)[0]
    assert found == (TEACHER["hidden_size"] if distils else MICRO_BATCH * LENGTH)


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_the_ranks_parts_of_the_hidden_gradient_are_summed(call, sequence_parallel):
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(6, 3, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(10, 8, generator=generator, dtype=torch.float64)
    arguments = (sequence_parallel, hidden, weight)
    case = "distillation_cases:hidden_gradients"
    ranks = call(case, *arguments, parallel=LAYOUTS["tensor=2"])
    whole, wide = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    (whole @ wide.t()).sin().sum().backward()
    for rank, (slope, weight_slope) in enumerate(ranks):
        expected = whole.grad.chunk(2)[rank] if sequence_parallel else whole.grad
        torch.testing.assert_close(slope, expected)
        torch.testing.assert_close(weight_slope, wide.grad.chunk(2)[rank])
