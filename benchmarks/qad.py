"""How much of NVFP4's loss quantisation-aware distillation wins back, on a finished demo run.

Usage: ``python benchmarks/qad.py --run runs/demo [--json]``. The demo's teacher is quantised as it
is, and once more after it was distilled from itself with its linear layers computing in the format
(`quantization.format`), once a seed; nothing but the rounding separates student and teacher, so
what comes back is the rounding's loss and not the gain of further training. Every quantised model
is read back from its exported file and simulated. Measured on the demo's test tokens, which no
training saw: KL to the unquantised model and cross-entropy, nats a token. Work lies in ``runs/qad``
(``--output``); what is there already is not made again.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.files import atomic_directory
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig
from nemo_bielik.quantize.modelopt import write_checkpoint
from nemo_bielik.quantize.modelopt_formats import find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers
from nemo_bielik.quantize.modelopt_reader import read_simulated
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import TEACHER, Run
from nemo_bielik.training import OptimConfig, TrainSettings

DISTILL = "nemo_bielik.distill.stage:distill"
LENGTH, CALIBRATION_WINDOWS = 64, 256
SEEDS = (1, 2, 3)


def settings(options: argparse.Namespace, seed: int) -> TrainSettings:
    """Return the demo's recovery with its length, its rate and the format changed."""
    recovery = tiny.recovery()
    recovery.iters, recovery.seed = options.iters, seed
    recovery.eval_interval = options.iters // 2
    recovery.optim = OptimConfig(
        max_lr=options.max_lr, min_lr=options.max_lr / 10, warmup_iters=10, weight_decay=0.0
    )
    recovery.quantization = FakeQuantizationConfig(format=options.format)
    return recovery


def make(options: argparse.Namespace) -> dict[str, Path]:
    """Distil once a seed, quantise every model, and return the quantised ones by name."""
    demo, work = Run(options.run), Run(options.output)
    teacher = demo.model(TEACHER)
    with Lanes(options.lanes) as lanes:
        collect(
            [
                lanes.submit(
                    DISTILL,
                    DistillConfig(
                        model=teacher,
                        teacher=teacher,
                        train_data=[demo.tokens("recovery")],
                        validation_data=demo.tokens("validation"),
                        output=work.model(f"seed{seed}"),
                        **settings(options, seed).fields(),
                    ),
                )
                for seed in options.seeds
            ]
        )
    sources = {"as it is": teacher} | {f"seed {n}": work.model(f"seed{n}") for n in options.seeds}
    made = {}
    for name, model in sources.items():
        made[name] = options.output / options.format / name.replace(" ", "-")
        if not made[name].is_dir():
            with atomic_directory(made[name]) as scratch:
                quantise(model, demo.tokens("calibration"), options.format, scratch)
    return made


def quantise(model: Path, tokens: Path, name: str, output: Path) -> None:
    """Write `model` in the format called `name`, calibrated on 256 windows of `tokens`."""
    layers = choose_layers(Checkpoint.open(model).arch, PrecisionConfig(format=name))
    calibration = windows(tokens)
    drawn = np.random.default_rng(1).permutation(len(calibration))[:CALIBRATION_WINDOWS]
    chosen = calibration[np.sort(drawn)].tolist()
    write_checkpoint(model, output, find_format(name), layers, chosen, batch_size=16)


def windows(tokens: Path) -> NDArray[np.int64]:
    """Return all of a text end to end, [windows, LENGTH]."""
    ids = np.asarray(TokenFiles.open(tokens).tokens, np.int64)
    return ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)


@torch.no_grad()
def measure(original: Any, model: Any, text: torch.Tensor) -> dict[str, float]:
    """Return KL(original ‖ model), cross-entropy and top-1 agreement, each per token."""
    divergence = loss = agreed = 0.0
    for batch in torch.split(text, 64):
        wanted = log_softmax(original(input_ids=batch).logits.double(), -1)
        found = log_softmax(model(input_ids=batch).logits.double(), -1)
        divergence += float(kl_div(found, wanted, log_target=True, reduction="sum"))
        predicted = found[:, :-1].flatten(0, 1)
        loss += float(cross_entropy(predicted, batch[:, 1:].flatten(), reduction="sum"))
        agreed += float((wanted.argmax(-1) == found.argmax(-1)).sum())
    rows, length = text.shape
    return {
        "kl": divergence / (rows * length),
        "cross_entropy": loss / (rows * (length - 1)),
        "top1_agreement": agreed / (rows * length),
    }


def compare(options: argparse.Namespace, made: dict[str, Path]) -> dict[str, Any]:
    """Return the figures of every model, and the share of the loss that each seed wins back."""
    from transformers import AutoModelForCausalLM

    demo = Run(options.run)
    teacher = demo.model(TEACHER)
    text = torch.from_numpy(windows(demo.tokens("test")))
    original = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    rows = {"unquantised": measure(original, original, text)}
    rows |= {name: measure(original, read_simulated(path), text) for name, path in made.items()}
    best, plain = rows["unquantised"], rows["as it is"]
    shares = {
        figure: [
            (plain[figure] - rows[f"seed {seed}"][figure]) / (plain[figure] - best[figure])
            for seed in options.seeds
        ]
        for figure in ("kl", "cross_entropy")
    }
    recovered = {
        figure: {
            "seeds": values,
            "mean": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
        }
        for figure, values in shares.items()
    }
    told = {name: getattr(options, name) for name in ("format", "iters", "max_lr")}
    return {**told, "tokens": text.numel(), "models": rows, "recovered": recovered}


def print_table(found: dict[str, Any]) -> None:
    print(f"{'':<12} {'KL, nats':>10} {'cross-entropy':>14} {'top-1 agreement':>16}")
    for name, row in found["models"].items():
        print(
            f"{name:<12} {row['kl']:>10.5f} {row['cross_entropy']:>14.5f} "
            f"{row['top1_agreement']:>16.2%}"
        )
    for figure, share in found["recovered"].items():
        print(f"won back of {figure}: {share['mean']:.0%} ± {share['deviation']:.0%}")


def main() -> int:
    """Make what is missing and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--output", type=Path, default=Path("runs/qad"))
    parser.add_argument("--format", choices=("nvfp4", "fp8"), default="nvfp4")
    parser.add_argument("--iters", type=int, default=120, help="steps of 1,024 tokens")
    parser.add_argument("--max-lr", type=float, default=5e-4, help="peak learning rate")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--lanes", type=int, default=2, help="runs side by side (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    found = compare(options, make(options))
    print(json.dumps(found, indent=2)) if options.json else print_table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
