"""Training is the same however it is split, stopped and continued; plain transformers agrees."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import plain_reference as plain
import psutil
import pytest
import torch
from engine_room import STUDENT, VOCAB_SIZE
from event_files import tensorboard_scalars
from safetensors.torch import load_file

from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import DataError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig, TrainConfig

DISTILL = "nemo_bielik.distill.stage:distill"
TRAIN = "nemo_bielik.training:train"
ONE, TENSOR, PIPELINE, DATA, CONTEXT = (
    ParallelConfig(),
    ParallelConfig(tensor=2),
    ParallelConfig(pipeline=2),
    ParallelConfig(data=2),
    ParallelConfig(context=2),
)
LENGTH, BATCH, STEPS, EVAL_ITERS = 32, 8, 6, 2
LONG = 80


@dataclasses.dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    output: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.output / "training" / "metrics.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def values(self, name: str) -> list[float]:
        return [line[name] for line in self.lines if name in line]

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(self.output / "model.safetensors")

    @property
    def bytes(self) -> bytes:
        return (self.output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def settings(tokens, held_out):
    return {
        "train_data": tokens,
        "validation_data": held_out,
        "iters": STEPS,
        "sequence_length": LENGTH,
        "global_batch_size": BATCH,
        "micro_batch_size": 2,
        "eval_interval": 3,
        "eval_iters": EVAL_ITERS,
        "save_interval": 3,
        # the norm is not cut, and the rate is high enough that a wrong step shows
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1, clip_grad=0.0),
    }


@pytest.fixture(scope="module")
def run(lanes, tmp_path_factory, settings, student, teacher):
    """Return a function that runs a stage with some settings changed."""

    def run(stage: str = DISTILL, **changes: Any) -> Finished:
        output = tmp_path_factory.mktemp("run") / "output"
        values = {"model": student, "output": output} | settings | changes
        if stage == DISTILL:
            lanes.run(stage, DistillConfig(**({"teacher": teacher} | values)))
        else:
            lanes.run(stage, TrainConfig(**values))
        return Finished(values["output"])

    return run


@pytest.fixture(scope="module")
def distilled(run):
    return run()


@pytest.fixture(scope="module")
def distilled_uneven(run, uneven_student):
    return run(model=uneven_student)


@pytest.fixture(scope="module")
def trained(run):
    return run(TRAIN)


def assert_same_training(found: Finished, expected: Finished) -> None:
    assert len(found.values("loss")) == len(expected.values("loss")) == STEPS
    assert len(found.values("validation_loss")) == len(expected.values("validation_loss")) == 2
    for name, tolerance in (("loss", 1e-5), ("validation_loss", 1e-5), ("grad_norm", 1e-4)):
        assert found.values(name) == pytest.approx(expected.values(name), rel=tolerance), name
    assert len(set(expected.values("loss"))) == STEPS  # it did move
    for name, weights in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layout",
    [TENSOR, PIPELINE, DATA, CONTEXT],
    ids=["tensor=2", "pipeline=2", "data=2", "context=2"],
)
def test_distillation_is_the_same_however_it_is_split(run, distilled, layout):
    assert_same_training(run(parallel=layout), distilled)


def test_distillation_is_the_same_on_uneven_pipeline_stages(run, distilled_uneven, uneven_student):
    assert_same_training(run(model=uneven_student, parallel=PIPELINE), distilled_uneven)


def test_an_uneven_student_of_an_uneven_teacher(run, uneven_student, student):
    pair = {"model": student, "teacher": uneven_student}
    assert_same_training(run(**pair, parallel=PIPELINE), run(**pair))


@pytest.mark.parametrize(
    "layout", [TENSOR, PIPELINE, CONTEXT], ids=["tensor=2", "pipeline=2", "context=2"]
)
def test_training_on_labels_is_the_same_however_it_is_split(run, trained, layout):
    assert_same_training(run(TRAIN, parallel=layout), trained)


@pytest.fixture(scope="module")
def tied_student(make_model):
    return make_model(seed=3, tie_word_embeddings=True, **STUDENT)


@pytest.fixture(scope="module")
def trained_tied(run, tied_student):
    return run(TRAIN, model=tied_student, save_interval=0)


@pytest.mark.parametrize("layout", [TENSOR, PIPELINE], ids=["tensor=2", "pipeline=2"])
def test_tied_embeddings_train_the_same_however_they_are_split(
    run, tied_student, trained_tied, layout
):
    found = run(TRAIN, model=tied_student, save_interval=0, parallel=layout)
    assert_same_training(found, trained_tied)


def test_one_micro_batch_is_the_same_as_four(run, distilled):
    assert_same_training(run(micro_batch_size=BATCH), distilled)


@pytest.fixture(scope="module")
def first_batch(call, tokens, tmp_path_factory):
    """The sequences of the first step; documents of uneven length give uneven masks."""
    cache = tmp_path_factory.mktemp("index")
    arguments = (tokens, STEPS * BATCH, LENGTH, 1, VOCAB_SIZE, cache)
    samples = call("engine_cases:packed_samples", *arguments)[0]
    batch = {name: rows[:BATCH] for name, rows in samples.items()}
    per_sequence = plain.counted_tokens(batch["tokens"]).sum(1)
    assert len(set(per_sequence.tolist())) > 2
    return batch


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_first_step_of_distillation_agrees_with_plain_transformers(
    run, distilled, first_batch, student, teacher, temperature
):
    found = distilled if temperature == 1.0 else run(temperature=temperature, iters=STEPS)
    model, tokens = plain.load(student), first_batch["tokens"]
    with torch.no_grad():
        wanted = plain.packed_logits(plain.load(teacher), tokens)
    values = plain.token_kl(plain.packed_logits(model, tokens), wanted, temperature)
    loss = plain.masked_mean(values, tokens)
    loss.backward()
    assert found.values("loss")[0] == pytest.approx(loss.item(), rel=1e-5)
    assert found.values("grad_norm")[0] == pytest.approx(plain.gradient_norm(model), rel=1e-4)


def test_the_first_step_on_labels_agrees_with_plain_transformers(trained, first_batch, student):
    model, tokens = plain.load(student), first_batch["tokens"]
    values = plain.token_surprise(plain.packed_logits(model, tokens), first_batch["labels"])
    loss = plain.masked_mean(values, tokens)
    loss.backward()
    assert trained.values("loss")[0] == pytest.approx(loss.item(), rel=1e-5)
    assert trained.values("grad_norm")[0] == pytest.approx(plain.gradient_norm(model), rel=1e-4)


def validation_loss(call, model: Path, held_out: Path, cache: Path) -> float:
    arguments = (held_out, EVAL_ITERS * BATCH, LENGTH, 1, VOCAB_SIZE, cache)
    samples = call("engine_cases:packed_samples", *arguments)[0]
    with torch.no_grad():
        logits = plain.packed_logits(plain.load(model), samples["tokens"])
    surprise = plain.token_surprise(logits, samples["labels"])
    return plain.masked_mean(surprise, samples["tokens"]).item()


def test_the_last_validation_is_that_of_the_exported_weights(call, trained, held_out, tmp_path):
    found = validation_loss(call, trained.output, held_out, tmp_path / "index")
    assert trained.values("validation_loss")[-1] == pytest.approx(found, rel=1e-5)


def test_the_best_weights_are_kept(call, run, held_out, tmp_path):
    """Random text can only be learned by heart, so validation gets worse before the end."""
    settings = {"iters": 24, "eval_interval": 4, "save_interval": 0, "keep": "best"}
    optim = OptimConfig(max_lr=3e-2, min_lr=3e-2, warmup_iters=1)
    found = run(TRAIN, **settings, optim=optim)
    validations = {
        line["step"]: line["validation_loss"] for line in found.lines if "validation_loss" in line
    }
    best = min(validations, key=validations.__getitem__)
    assert list(validations) == [4, 8, 12, 16, 20, 24]
    assert best < 24, "the last weights would be the best ones"
    loss = validation_loss(call, found.output, held_out, tmp_path / "index")
    assert loss == pytest.approx(validations[best], rel=1e-5)
    results = Manifest.load(found.output).results
    assert results["best_step"] == best
    assert results["best_validation_loss"] == validations[best]


def test_an_output_holds_model_manifest_metrics_and_events_and_nothing_unfinished(distilled):
    names = {str(p.relative_to(distilled.output)) for p in distilled.output.rglob("*")}
    assert {"model.safetensors", "config.json", "bielik_manifest.json"} <= names
    assert "training/metrics.jsonl" in names
    events = [name for name in names if name.startswith("training/tensorboard/events")]
    assert events
    assert all((distilled.output / name).stat().st_size > 100 for name in events)
    assert [path.name for path in distilled.output.parent.iterdir()] == ["output"]


def test_metrics_count_tokens_and_follow_the_schedule(distilled):
    steps = [line for line in distilled.lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert [line["tokens"] for line in steps] == [n * BATCH * LENGTH for n in range(1, STEPS + 1)]
    assert max(line["learning_rate"] for line in steps) <= 1e-2
    assert [line["seconds"] for line in distilled.lines] == sorted(
        line["seconds"] for line in distilled.lines
    )


def test_speed_counts_both_models(distilled, student, teacher):
    """Model FLOPs by hand: 2 a weight and token, 4 · channels a key; backward is twice forward."""

    def forward(directory):
        config = json.loads((directory / "config.json").read_text())
        weights = load_file(directory / "model.safetensors")
        linear = sum(
            x.numel() for name, x in weights.items() if x.dim() == 2 and "embed" not in name
        )
        head = weights["model.layers.0.self_attn.q_proj.weight"].size(0)
        return 2 * linear + 4 * config["num_hidden_layers"] * head * (LENGTH + 1) / 2

    work = 3 * forward(student) + forward(teacher)
    for line in distilled.lines:
        if "loss" in line:
            assert line["flops_per_second"] == pytest.approx(line["tokens_per_second"] * work)
            assert "utilisation" not in line  # nobody says what this CPU could reach
    first = next(line for line in distilled.lines if "loss" in line)
    assert first["tokens_per_second"] == pytest.approx(
        BATCH * LENGTH / first["step_seconds"], rel=1e-3
    )
    results = Manifest.load(distilled.output).results
    rates = sorted(distilled.values("tokens_per_second"))
    assert rates[0] <= results["tokens_per_second"] <= rates[-1]


def test_a_finished_run_is_not_run_again(run, distilled):
    before = {path: path.stat().st_mtime_ns for path in distilled.output.rglob("*")}
    run(output=distilled.output)
    assert {path: path.stat().st_mtime_ns for path in distilled.output.rglob("*")} == before


def test_another_runs_output_is_refused(run, distilled):
    before = distilled.bytes
    with pytest.raises(StorageError, match="another setting iters") as caught:
        run(output=distilled.output, iters=STEPS + 1)
    assert "\n" not in str(caught.value)
    assert distilled.bytes == before


@pytest.mark.parametrize("layout", [ONE, DATA], ids=["one process", "data=2"])
def test_another_runs_unfinished_work_is_refused(run, tmp_path, layout):
    output = tmp_path / "output"
    work = work_directory(output)
    work.mkdir()
    Manifest(stage="train", config={"iters": 1}).save(work)
    with pytest.raises(StorageError, match="remove it or choose another output") as caught:
        run(output=output, parallel=layout)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert [path.name for path in work.iterdir()] == ["bielik_manifest.json"]


@pytest.mark.parametrize("stage", [TRAIN, DISTILL])
def test_training_that_diverges_is_one_line_and_no_output(run, tmp_path, stage):
    output = tmp_path / "output"
    optim = OptimConfig(max_lr=1e6, min_lr=1e6, warmup_iters=0)
    with pytest.raises(DataError, match=r"diverged.*lower optim.max_lr") as caught:
        run(stage, output=output, optim=optim, iters=30, eval_interval=0)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_the_stock_engine_agrees_at_temperature_one(run, distilled):
    stock = run(engine="stock", save_interval=0)
    for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):
        assert stock.values(name) == pytest.approx(distilled.values(name), rel=tolerance), name


def test_the_stock_loss_lacks_the_factor_of_temperature_squared(run):
    settings = {"temperature": 2.0, "iters": 2, "save_interval": 0, "eval_interval": 0}
    ours, stock = run(**settings), run(**settings, engine="stock")
    for name in ("loss", "grad_norm"):
        assert stock.values(name)[0] == pytest.approx(ours.values(name)[0] / 4, rel=1e-4), name


# --- stopped and continued


@pytest.fixture(scope="module")
def long_run(settings, student):
    """Steps enough to be stopped among them."""
    return settings | {
        "model": student,
        "iters": LONG,
        "micro_batch_size": BATCH,
        "eval_interval": 20,
        "eval_iters": 1,
        "save_interval": 20,
    }


@pytest.fixture(scope="module")
def uninterrupted(run, long_run):
    return run(TRAIN, **long_run)


def start(config: TrainConfig) -> "subprocess.Popen[str]":
    """Start ``bielik train`` with the settings that differ from their defaults."""
    optim = config.optim
    options = {
        "--model": config.model,
        "--train-data": config.train_data[0],
        "--validation-data": config.validation_data,
        "--output": config.output,
    }
    names = ("iters", "sequence_length", "global_batch_size", "micro_batch_size", "eval_interval")
    overrides = {name: getattr(config, name) for name in (*names, "eval_iters", "save_interval")}
    for name in ("max_lr", "min_lr", "warmup_iters", "clip_grad"):
        overrides[f"optim.{name}"] = getattr(optim, name)
    words = [str(word) for option in options.items() for word in option]
    words += [f"{name}={value}" for name, value in overrides.items()]
    command = [sys.executable, "-W", "ignore", "-m", "nemo_bielik", "train", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps_so_far(output: Path) -> int:
    path = work_directory(output) / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.is_file() else 0


def wait_for_steps(process: "subprocess.Popen[str]", output: Path, steps: int) -> None:
    deadline = time.monotonic() + 240
    while steps_so_far(output) < steps:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"stopped before step {steps}: {process.communicate()[0]}")
        time.sleep(0.005)


def test_a_stopped_run_continues_bit_for_bit(run, long_run, uninterrupted, tmp_path):
    """Killed outright it goes on from its last checkpoint, terminated from where it was."""
    configs = {
        number: TrainConfig(**long_run, output=tmp_path / number.name)
        for number in (signal.SIGKILL, signal.SIGTERM)
    }
    processes = {number: start(config) for number, config in configs.items()}
    children = {}
    for number, process in processes.items():
        wait_for_steps(process, configs[number].output, 25)
        children[number] = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
    for number, process in processes.items():
        said = process.communicate(timeout=60)[0]
        assert process.returncode == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0}[number]
        assert not configs[number].output.exists(), said
        assert "Traceback" not in said
        assert list(psutil.wait_procs(children[number], 10)[1]) == []
    stopped_at = steps_so_far(configs[signal.SIGTERM].output)
    assert 25 <= stopped_at < LONG
    saved = work_directory(configs[signal.SIGTERM].output) / f"checkpoints/iter_{stopped_at:07d}"
    assert (saved / "complete.json").is_file()
    for config in configs.values():
        found = run(TRAIN, **long_run | {"output": config.output})
        assert found.values("loss") == uninterrupted.values("loss")
        assert found.values("grad_norm") == uninterrupted.values("grad_norm")
        assert found.values("validation_loss") == uninterrupted.values("validation_loss")
        assert found.bytes == uninterrupted.bytes
        assert_events_are_the_metrics(found)


def assert_events_are_the_metrics(found: Finished) -> None:
    """TensorBoard has every step once, stopped or not."""
    events = tensorboard_scalars(found.output / "training" / "tensorboard")
    wanted = {"loss", "validation_loss", "grad_norm", "learning_rate", "tokens_per_second"}
    assert wanted <= set(events)
    for name in wanted:
        lines = [(line["step"], line[name]) for line in found.lines if name in line]
        assert [step for step, _ in events[name]] == [step for step, _ in lines]
        assert [value for _, value in events[name]] == pytest.approx([x for _, x in lines])


def test_data_parallel_ranks_continue_bit_for_bit(call, run, settings, student, tmp_path):
    """Their optimizer is split over them, and so are its checkpoints."""
    parallel = ParallelConfig(data=2)
    saved = settings | {"model": student, "save_interval": 2, "parallel": parallel}
    saved |= {"micro_batch_size": BATCH // 2, "eval_interval": 0}
    expected = run(TRAIN, **saved)
    config = TrainConfig(**saved, output=tmp_path / "output")
    call("stopped_cases:train_until", config, 3, parallel=parallel)
    assert steps_so_far(config.output) == 3
    found = run(TRAIN, **saved, output=config.output)
    assert found.values("loss") == expected.values("loss")
    assert found.values("grad_norm") == expected.values("grad_norm")
    assert found.bytes == expected.bytes
