"""What a scoring pass for all axes costs beside a bare forward pass and beside ModelOpt's.

Usage: ``OMP_NUM_THREADS=2 python benchmarks/scoring.py [--json] [--rounds N]``. The three run in
turn on the same random model and batches in one process; medians are shown. The exit status is 1 if
the wide model missed a target. A bare pass and ModelOpt's compute the logits, ours leaves them out;
what our hooks cost where they are computed too is shown as well. ModelOpt's model is a copy,
because its hooks need modules that it has made dynamic; that these compute more slowly is part of
what its scores cost.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATIO_TARGET, MODELOPT_TARGET = 1.10, 1.00


@dataclass(frozen=True)
class Case:
    """A model and the batches that it scores."""

    name: str
    sizes: dict[str, Any]
    sequence_length: int
    micro_batch_size: int
    batches: int


#: Bielik-11B's proportions a quarter as wide and a twelfth as deep; and the demo's teacher.
CASES = (
    Case(
        "hidden 1024",
        {
            "hidden_size": 1024,
            "ffn_hidden_size": 3584,
            "num_layers": 4,
            "num_attention_heads": 8,
            "num_query_groups": 2,
            "head_dim": 128,
        },
        sequence_length=512,
        micro_batch_size=1,
        batches=1,
    ),
    Case(
        "demo",
        {
            "hidden_size": 96,
            "ffn_hidden_size": 320,
            "num_layers": 6,
            "num_attention_heads": 6,
            "num_query_groups": 2,
            "head_dim": 16,
        },
        sequence_length=64,
        micro_batch_size=16,
        batches=8,
    ),
)


def measure(case: Case, rounds: int, folder: Path) -> dict[str, Any]:
    """Time bare forward passes, our scoring and ModelOpt's, in turn, on one case."""
    from nemo_bielik.arch import ModelArch
    from nemo_bielik.initialize import write_random
    from nemo_bielik.megatron.model import distributed_session, quiet
    from nemo_bielik.pruning.score import ScoreConfig

    arch = ModelArch(name=case.name, vocab_size=2048, **case.sizes)
    directory = folder / "model"
    directory.mkdir(parents=True)
    write_random(arch, 1, directory, {})
    config = ScoreConfig(
        model=directory,
        data=folder,
        output=folder,
        samples=case.batches * case.micro_batch_size,
        sequence_length=case.sequence_length,
        micro_batch_size=case.micro_batch_size,
    )
    with ExitStack() as stack:
        stack.enter_context(quiet(folder / "engine.log"))
        stack.enter_context(distributed_session())
        passes = _passes(case, config, arch, stack)
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for number in range(rounds + 1):  # the first warms up
            order = list(passes) if number % 2 else list(reversed(passes))
            for name in order:
                started = time.perf_counter()
                passes[name]()
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return _row(case, {name: statistics.median(values) for name, values in seconds.items()})


def _passes(
    case: Case, config: Any, arch: Any, stack: ExitStack
) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    from nemo_bielik.megatron.upstream_fixes import install_modelopt_norm
    from nemo_bielik.pruning.calibration_mcore import forward_batches, without_logits
    from nemo_bielik.pruning.minitron_mcore import ActivationSums
    from nemo_bielik.pruning.modelopt_mcore import ModelOptSums

    ours, theirs = _two_models(config)
    batches = _batches(case, arch.vocab_size)
    install_modelopt_norm()
    sums, modelopt_sums = ActivationSums(arch, config), ModelOptSums(arch, config)
    stack.enter_context(modelopt_sums.attached(theirs[0]))

    def forward(model: Any) -> None:
        forward_batches(config, model, batches, len(batches))

    def score() -> None:
        with sums.attached(ours[0]), without_logits(ours[0]):
            forward(ours)
        sums.take()

    def score_with_logits() -> None:
        with sums.attached(ours[0]):
            forward(ours)
        sums.take()

    def score_by_modelopt() -> None:
        forward(theirs)
        modelopt_sums.take()

    return {
        "forward": lambda: forward(ours),
        "score": score,
        "score_with_logits": score_with_logits,
        "modelopt": score_by_modelopt,
    }


def _two_models(config: Any) -> list[Any]:
    from nemo_bielik.megatron.model import model_provider, open_bridge

    provider = model_provider(
        open_bridge(config.model), config.parallel, config.precision, config.sequence_length
    )
    provider.finalize()
    provider.initialize_model_parallel(seed=1)
    models = [provider.provide_distributed_model(wrap_with_ddp=False) for _ in range(2)]
    for chunk in (chunk for model in models for chunk in model):
        chunk.eval()
    return models


def _batches(case: Case, vocab_size: int) -> list[dict[str, Any]]:
    """Return micro-batches of random tokens, one document a sequence."""
    import torch

    generator = torch.Generator().manual_seed(1)
    shape = (case.micro_batch_size, case.sequence_length)
    positions = torch.arange(case.sequence_length).expand(shape)
    rows = [torch.randint(vocab_size, shape, generator=generator) for _ in range(case.batches)]
    return [
        {
            "tokens": tokens,
            "labels": tokens,
            "loss_mask": torch.ones(shape),
            "position_ids": positions,
        }
        for tokens in rows
    ]


def _row(case: Case, seconds: dict[str, float]) -> dict[str, Any]:
    ratio = seconds["score"] / seconds["forward"]
    modelopt_ratio = seconds["score"] / seconds["modelopt"]
    return {
        "model": case.name,
        "tokens": case.batches * case.micro_batch_size * case.sequence_length,
        **{f"{name}_seconds": round(value, 4) for name, value in seconds.items()},
        "ratio": round(ratio, 4),
        "ratio_with_logits": round(seconds["score_with_logits"] / seconds["forward"], 4),
        "modelopt_ratio": round(modelopt_ratio, 4),
        "ok": ratio <= RATIO_TARGET and modelopt_ratio < MODELOPT_TARGET,
    }


def main() -> int:
    """Measure both models and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=21, help="passes of each (default: 21)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            measure(case, options.rounds, Path(folder) / str(number))
            for number, case in enumerate(CASES)
        ]
    wide = rows[0]
    if options.json:
        targets = {"ratio": RATIO_TARGET, "modelopt_ratio": MODELOPT_TARGET}
        found = {name: wide[name] for name in ("ratio", "ratio_with_logits", "modelopt_ratio")}
        threads = os.environ.get("OMP_NUM_THREADS")
        print(
            json.dumps({**found, "targets": targets, "threads": threads, "cases": rows}, indent=2)
        )
    else:
        _print_table(rows)
    return 0 if wide["ok"] else 1


def _print_table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'model':<13}{'forward s':>10}{'score s':>10}{'ModelOpt s':>12}"
        f"{'/ forward':>11}{'with logits':>13}{'/ ModelOpt':>12}"
    )
    for row in rows:
        print(
            f"{row['model']:<13}{row['forward_seconds']:>10.3f}{row['score_seconds']:>10.3f}"
            f"{row['modelopt_seconds']:>12.3f}{row['ratio']:>11.3f}"
            f"{row['ratio_with_logits']:>13.3f}{row['modelopt_ratio']:>12.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
