"""A whole distillation step against the bare passes that it cannot avoid, and Bridge's stock one.

Usage: ``OMP_NUM_THREADS=2 python benchmarks/distill_step.py [--json] [--rounds 5]``. One process,
fp32, random models with Bielik-11B's proportions an eighth as wide and its whole vocabulary, one
sequence of 512 tokens; losses and all gradients, no optimizer:

bare   teacher forward and student forward and backward up to the hidden states, and the output
       layers' four matrix products over all tokens at once, into allocated memory; no loss
ours   the engine's step: `objectives.Distillation`
cached ours with the teacher read from a cache on disk, k = 64 in float16
student  the student's share of bare: no teacher forward, no teacher's output layer
stock  Megatron-Bridge's `distill()` with ModelOpt's loss: `objectives.StockDistillation`

"ours x2" and "ours x4" are ours with two and four sequences at once. Every contender is a process
of its own. Rounds alternate between them; medians are compared, after one warm-up. Memory is the
peak (VmHWM) above what is held with models and gradients allocated. Of the ladder, in which layers
outweigh the vocabulary more and more (83 times in Bielik-11B), the last rung gives the ratios:

bound_ratio   ours / bare
stock_ratio   ours / stock
memory_ratio  the peaks of ours / stock
cached_ratio        cached / ours
cached_bound_ratio  cached / student: what reading and everything else costs beside bare passes
capped_ratio  seconds a sequence, ours / stock, with the most sequences at once that need no more
              memory than stock's one

The exit status is 1 if one misses its target.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill_loss import ask, memory, reset_peak

TARGETS = {"bound_ratio": 1.2, "stock_ratio": 1.0, "capped_ratio": 1.0}
#: Layers of student and teacher. Layers : vocabulary are 0.8 and 3.3 in the teachers' parameters.
LADDER = ((3, 4), (12, 16))
SEQUENCE_LENGTH, VOCAB_SIZE = 512, 32128
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 512,
    "ffn_hidden_size": 1792,
    "num_attention_heads": 4,
    "num_query_groups": 1,
    "head_dim": 128,
}
#: Name, and sequences at once.
CONTENDERS = {
    "bare": 1,
    "student": 1,
    "ours": 1,
    "cached": 1,
    "stock": 1,
    "ours x2": 2,
    "ours x4": 4,
}
SHOWN = (*TARGETS, "memory_ratio", "cached_ratio", "cached_bound_ratio")
#: What a default cache keeps of every distribution.
KEPT = 64


def write_models(folder: Path, layers: tuple[int, int]) -> list[str]:
    """Write a random student and teacher; return their directories."""
    from nemo_bielik.arch import ModelArch
    from nemo_bielik.initialize import write_random

    directories = []
    for seed, (name, count) in enumerate(zip(("student", "teacher"), layers, strict=True)):
        directory = folder / name
        directory.mkdir(parents=True)
        write_random(ModelArch(name=name, num_layers=count, **SIZES), seed, directory, {})
        directories.append(str(directory))
    return directories


def build(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Return the objective and its model, with gradients allocated, on a process group of one."""
    import torch

    from nemo_bielik.distill.loss_config import LossConfig
    from nemo_bielik.megatron.model import model_provider, open_bridge
    from nemo_bielik.megatron.objectives import Distillation, Objective, StockDistillation
    from nemo_bielik.megatron.teacher import LiveTeacher
    from nemo_bielik.training import TrainConfig

    student, teacher = map(Path, settings["models"])
    config = TrainConfig(
        model=student, train_data=[student], output=student, sequence_length=SEQUENCE_LENGTH
    )
    provider = model_provider(
        open_bridge(student), config.parallel, config.precision, SEQUENCE_LENGTH
    )
    objective: Objective
    if settings["worker"] == "stock":
        objective = StockDistillation(teacher, 1.0)
    elif settings["worker"] == "cached":
        objective = Distillation(random_cache(student.parent / "cache", config), LossConfig())
    else:
        objective = Distillation(LiveTeacher(teacher), LossConfig())
    provider = objective.prepare(provider, config)
    provider.finalize()
    provider.initialize_model_parallel(seed=1)
    model = provider.provide_distributed_model(wrap_with_ddp=False)[0]
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return objective, model


def random_cache(directory: Path, config: Any) -> Any:
    """Return the source of a random teacher whose cache holds the benchmark's text.

    The text comes from no dataset, so the search through a run's rows is left out.
    """
    import numpy as np

    from nemo_bielik.distill.cache_format import STAGE, Fragments, shard_name, write_shard
    from nemo_bielik.distill.cache_plan import Plan, pieces_of
    from nemo_bielik.distill.cache_stage import CacheTeacherConfig, complete
    from nemo_bielik.manifest import Manifest
    from nemo_bielik.megatron.teacher_cache import CachedTeacher

    class RandomTeacher(CachedTeacher):
        def attach(self, provider: Any, config: Any) -> None:
            """Take the text to be there."""

    settings = CacheTeacherConfig(
        teacher=config.model, train_data=config.model, output=directory, k=KEPT
    )
    layout = settings.record_layout(VOCAB_SIZE)
    fields = [make_batch(1)[name].numpy()[0] for name in ("tokens", "position_ids", "loss_mask")]
    plan = Plan.make([pieces_of([(0, Fragments.of(*fields))])], rows_per_shard=1)
    generator, records = np.random.default_rng(1), np.empty(SEQUENCE_LENGTH, layout.record)
    records["ids"] = generator.permuted(np.tile(np.arange(VOCAB_SIZE), (8, 1)), axis=1)[
        generator.integers(8, size=SEQUENCE_LENGTH), :KEPT
    ]
    records["log_probs"] = -np.sort(generator.uniform(4, 12, records["log_probs"].shape))
    records["remainders"] = -0.5
    directory.mkdir()
    write_shard(directory / shard_name(0), records, plan.pieces["positions"])
    manifest = Manifest(stage=STAGE, config=dataclasses.asdict(settings))
    complete(directory, settings, manifest, layout, plan)
    return RandomTeacher(directory, 1.0)


def make_batch(sequences: int) -> dict[str, Any]:
    """Return sequences of random tokens, one document each."""
    import torch

    shape = (sequences, SEQUENCE_LENGTH)
    tokens = torch.randint(VOCAB_SIZE, shape, generator=torch.Generator().manual_seed(1))
    return {
        "tokens": tokens,
        "labels": tokens.roll(-1, dims=1),
        "loss_mask": torch.ones(shape),
        "position_ids": torch.arange(SEQUENCE_LENGTH).repeat(sequences, 1),
    }


def whole_step(objective: Any, model: Any, batch: dict[str, Any]) -> Callable[[], float]:
    """Return the step that an objective makes, as Megatron calls it."""

    def step() -> float:
        output, loss = objective(None, iter([batch]), model)
        total = loss(output)[0]
        total.backward()
        return float(total)

    return step


def bare_step(model: Any, batch: dict[str, Any], taught: bool) -> Callable[[], None]:
    """Return the passes alone; the objective's models end at their hidden states.

    `taught` False leaves the teacher's out.
    """
    import torch

    from nemo_bielik.megatron.batches import Batch

    inputs = Batch(**batch).model_inputs()
    weight = model.output_layer.weight
    theirs = model.teacher.output_layer.weight
    rows = batch["tokens"].numel()
    logits, target = (torch.zeros(rows, VOCAB_SIZE) for _ in range(2))
    slopes = torch.zeros(rows, weight.size(1))

    def step() -> None:
        student, teacher = model(**inputs) if taught else (model.student(**inputs), None)
        with torch.no_grad():
            flat = student.reshape(rows, -1)
            if teacher is not None:
                torch.mm(teacher.reshape(rows, -1), theirs.t(), out=target)
            torch.mm(flat, weight.t(), out=logits)
            torch.mm(logits, weight, out=slopes)
            weight.grad.addmm_(logits.t(), flat)
        student.backward(slopes.view_as(student))

    return step


def work(settings: dict[str, Any]) -> None:
    """Answer every line from the parent with one step's figures."""
    from nemo_bielik.megatron.model import distributed_session

    warnings.simplefilter("ignore")
    with distributed_session(), contextlib.redirect_stdout(sys.stderr):
        objective, model = build(settings)
        batch = make_batch(settings["sequences"])
        if settings["worker"] in ("bare", "student"):
            step: Any = bare_step(model, batch, settings["worker"] == "bare")
        else:
            step = whole_step(objective, model, batch)
        answer({})
        for _ in sys.stdin:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.grad.zero_()
            reset_peak("cpu")
            held = memory("cpu", "VmRSS", "")
            started = time.perf_counter()
            loss = step()
            seconds = time.perf_counter() - started
            peak = memory("cpu", "VmHWM", "") - held
            answer({"seconds": seconds, "peak_bytes": peak, "loss": loss})


def answer(figures: dict[str, Any]) -> None:
    """Write a line to the parent; Megatron's chatter goes to stderr."""
    print(json.dumps(figures), file=sys.__stdout__, flush=True)


def measure(layers: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Return every contender's figures, and the ratios, for one rung of the ladder."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        models = write_models(Path(folder), layers)
        log = stack.enter_context((Path(folder) / "log").open("w+"))
        workers = {}
        for name, sequences in CONTENDERS.items():
            settings = {"worker": name.split()[0], "sequences": sequences, "models": models}
            command = [sys.executable, __file__, "--settings", json.dumps(settings)]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            stack.enter_context(worker)
            workers[name] = worker
            try:
                ask(worker, "")  # one at a time gets ready
            except SystemExit:
                print((Path(folder) / "log").read_text(), file=sys.stderr)
                raise
        turns = [
            {name: ask(worker, "step\n") for name, worker in workers.items()}
            for _ in range(rounds + 1)
        ]
    return {"layers": layers, **summary(turns)}


def summary(turns: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return median seconds and highest peaks, the first turn being a warm-up, and the ratios."""
    found = {
        name: {
            "seconds": statistics.median(turn[name]["seconds"] for turn in turns[1:]),
            "peak_bytes": max(turn[name]["peak_bytes"] for turn in turns[1:]),
            "loss": turns[0][name]["loss"],
        }
        for name in CONTENDERS
    }
    bare, ours, stock = (found[name] for name in ("bare", "ours", "stock"))
    student, cached = (found[name]["seconds"] for name in ("student", "cached"))
    if abs(stock["loss"] / ours["loss"] - 1) > 1e-3:
        raise SystemExit(f"stock finds a loss of {stock['loss']}, ours of {ours['loss']}")
    per_sequence = [
        found[name]["seconds"] / sequences
        for name, sequences in CONTENDERS.items()
        if name.startswith("ours") and found[name]["peak_bytes"] <= stock["peak_bytes"]
    ]
    return {
        **found,
        "bound_ratio": round(ours["seconds"] / bare["seconds"], 4),
        "stock_ratio": round(ours["seconds"] / stock["seconds"], 4),
        "memory_ratio": round(ours["peak_bytes"] / stock["peak_bytes"], 4),
        "cached_ratio": round(cached / ours["seconds"], 4),
        "cached_bound_ratio": round(cached / student, 4),
        "capped_ratio": round(per_sequence[-1] / stock["seconds"], 4) if per_sequence else None,
    }


def main() -> int:
    """Measure the ladder and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds (default: 5)")
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settings:
        work(json.loads(options.settings))
        return 0
    cases = [measure(layers, options.rounds) for layers in LADDER]
    ratios = {name: cases[-1][name] for name in SHOWN}
    if options.json:
        threads = os.environ.get("OMP_NUM_THREADS")
        shape = {**SIZES, "sequence_length": SEQUENCE_LENGTH, "threads": threads}
        print(json.dumps({**ratios, "targets": TARGETS, **shape, "cases": cases}, indent=2))
    else:
        print_table(cases)
    met = (ratios[name] is not None and ratios[name] <= TARGETS[name] for name in TARGETS)
    return 0 if all(met) else 1


def print_table(cases: list[dict[str, Any]]) -> None:
    print(f"{'layers':>8} {'contender':<10}{'seconds':>9}{'peak MiB':>10}")
    for case in cases:
        for name in CONTENDERS:
            row, layers = case[name], "/".join(map(str, case["layers"]))
            print(f"{layers:>8} {name:<10}{row['seconds']:>9.3f}{row['peak_bytes'] / 2**20:>10.0f}")
        print(" " * 9 + ", ".join(f"{name} {case[name]}" for name in SHOWN))


if __name__ == "__main__":
    sys.exit(main())
