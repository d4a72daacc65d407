"""How long training stands still for a checkpoint, and what share of its time that is.

Usage: ``OMP_NUM_THREADS=2 python benchmarks/checkpoints.py [--json] [--saves 5]``. One process,
fp32, a random model of 33 million parameters, whose checkpoint (weights and Adam's two moments) has
0.4 GB; steps of 1,024 tokens. Each contender is a training of its own, with a save every few steps:

bridge           Megatron-Bridge's plain save, synchronous: no seal
waiting          ours with async_save=False: written, hashed and sealed at once
waiting, bare    the same without hashes
beside           ours with async_save=True
beside, bare     the same without hashes

blocking         seconds in the save and in what is left of it at the beginning of later steps, when
                 the seal is written: median of the saves
whole            seconds by which the steps between two saves took longer than as many undisturbed
                 ones: what the writer takes from a machine without idle cores is in it
share            blocking / 100 undisturbed steps, and whole / the same

The exit status is 1 if the share of "beside" is not under 3 % by its blocking seconds.
"""

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from nemo_bielik.arch import ModelArch
from nemo_bielik.data.indexed import TokenWriter, token_dtype
from nemo_bielik.initialize import write_random
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.training import OptimConfig, TrainConfig, train

TARGET_SHARE, STEPS_BETWEEN_SAVES = 0.03, 100
SEQUENCE_LENGTH, BATCH = 256, 4
#: Steps from one save to the next.
INTERVAL = 4
ARCH = ModelArch(
    name="checkpoints",
    vocab_size=8192,
    hidden_size=512,
    ffn_hidden_size=1536,
    num_layers=8,
    num_attention_heads=8,
    num_query_groups=2,
    head_dim=64,
)
CONTENDERS = ("bridge", "waiting", "waiting, bare", "beside", "beside, bare")


class Timeline:
    """Seconds of every step, and of all that stands in a save's way of training, by save."""

    def __init__(self) -> None:
        self.blocking: list[float] = []
        self.steps: list[list[float]] = [[]]

    def save(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Time a save; the steps after it are another group."""
        found, seconds = timed(original, *args, **kwargs)
        self.blocking.append(seconds)
        self.steps.append([])
        return found

    def finalize(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Time what is left of the last save."""
        found, seconds = timed(original, *args, **kwargs)
        if self.blocking:
            self.blocking[-1] += seconds
        return found

    def step(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Time a step."""
        found, seconds = timed(original, *args, **kwargs)
        self.steps[-1].append(seconds)
        return found


def timed(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """Return what `function` returns, and its seconds."""
    started = time.perf_counter()
    found = function(*args, **kwargs)
    return found, time.perf_counter() - started


def measure(contender: str, saves: int, folder: Path) -> Timeline:
    """Train by `contender` and return what its steps and saves took."""
    output = folder / contender.replace(", ", "-")
    config = TrainConfig(
        model=folder / "model",
        train_data=[folder / "tokens"],
        output=output,
        iters=INTERVAL * (saves + 2),
        sequence_length=SEQUENCE_LENGTH,
        global_batch_size=BATCH,
        micro_batch_size=BATCH,
        save_interval=INTERVAL,
        async_save=contender.startswith("beside"),
        optim=OptimConfig(max_lr=1e-4, warmup_iters=1),
    )
    timeline = Timeline()
    with as_contender(contender), watched(timeline):
        train(config)
    # the first save also plans, the last one waits for the end
    timeline.blocking, timeline.steps = timeline.blocking[1:-1], timeline.steps[2:-1]
    return timeline


@contextlib.contextmanager
def watched(timeline: Timeline) -> Iterator[None]:
    """Have `timeline` see Megatron-Bridge's training loop."""
    import megatron.bridge.training.train as loop

    names = {
        "save_checkpoint_and_time": timeline.save,
        "maybe_finalize_async_save": timeline.finalize,
        "train_step": timeline.step,
    }
    with contextlib.ExitStack() as stack:
        for name, see in names.items():
            original = getattr(loop, name)
            watch = functools.partial(see, original)
            stack.enter_context(mock.patch.object(loop, name, watch))
        yield


@contextlib.contextmanager
def as_contender(contender: str) -> Iterator[None]:
    """Save by Megatron-Bridge alone, or without hashes."""
    from nemo_bielik.megatron import checkpoints, engine, saves
    from nemo_bielik.megatron.bridge_config import bridge_config

    def by_bridge(*args: Any) -> Any:
        container = configure(*args)
        container.checkpoint.async_save = False
        container.checkpoint.most_recent_k = 2
        return container

    configure = bridge_config
    with contextlib.ExitStack() as stack:
        if contender == "bridge":
            nothing = mock.patch.object(engine, "sealed_checkpoints", contextlib.nullcontext)
            stack.enter_context(nothing)
            stack.enter_context(mock.patch.object(engine, "bridge_config", by_bridge))
        if contender.endswith("bare"):
            for module in (checkpoints, saves):
                size = mock.patch.object(module, "fingerprint", lambda path: [path.stat().st_size])
                stack.enter_context(size)
        yield


def prepare(folder: Path) -> None:
    """Write the model and its text."""
    (folder / "model").mkdir()
    write_random(ARCH, 1, folder / "model", {})
    tokens = folder / "tokens"
    tokens.mkdir()
    generator = np.random.default_rng(1)
    with TokenWriter(tokens, token_dtype(ARCH.vocab_size)) as writer:
        for _ in range(200):
            document = np.array([*generator.integers(3, ARCH.vocab_size, 255), 2])
            writer.add(document, np.array([len(document)], dtype=np.int32))
        writer.finish()
    Manifest(stage="tokenize", config={}, results={"end_of_document": 2}).save(tokens)


def row(timeline: Timeline, step: float) -> dict[str, float]:
    """Return a contender's figures beside the seconds of an undisturbed step."""
    blocking = statistics.median(timeline.blocking)
    slowed = statistics.median(sum(steps) - len(steps) * step for steps in timeline.steps)
    whole = blocking + max(0.0, slowed)
    return {
        "blocking_seconds": round(blocking, 3),
        "whole_seconds": round(whole, 3),
        "share": round(blocking / (STEPS_BETWEEN_SAVES * step), 5),
        "whole_share": round(whole / (STEPS_BETWEEN_SAVES * step), 5),
    }


def main() -> int:
    """Measure all and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--saves", type=int, default=5, help="measured saves of each (default: 5)")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        prepare(Path(name))
        found = {one: measure(one, options.saves, Path(name)) for one in CONTENDERS}
    waiting = [found[one] for one in CONTENDERS if not one.startswith("beside")]
    step = statistics.median(s for line in waiting for steps in line.steps for s in steps)
    rows = {one: row(timeline, step) for one, timeline in found.items()}
    shape = {
        "parameters": count_parameters(ARCH),
        "tokens_a_step": SEQUENCE_LENGTH * BATCH,
        "step_seconds": round(step, 3),
        "steps_between_saves": STEPS_BETWEEN_SAVES,
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }
    if options.json:
        print(json.dumps({**shape, "target_share": TARGET_SHARE, "contenders": rows}, indent=2))
    else:
        print(f"a step takes {step:.3f} s")
        print(f"{'contender':<15}{'blocking s':>11}{'whole s':>9}{'share':>8}")
        for one, figures in rows.items():
            print(
                f"{one:<15}{figures['blocking_seconds']:>11.3f}{figures['whole_seconds']:>9.3f}"
                f"{figures['share']:>8.2%}"
            )
    return 0 if rows["beside"]["share"] < TARGET_SHARE else 1


if __name__ == "__main__":
    sys.exit(main())
