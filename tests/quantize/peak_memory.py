"""Run each step that loads a model in this process; print predicted and measured bytes as JSON."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.quantize import importance, memory, modelopt, simulated
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.modelopt_formats import find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers

LENGTH, WINDOWS = 128, 1


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def measured(step: Callable[[], object], predicted: memory.Memory) -> dict[str, int]:
    """Return the bytes that `step` takes at its peak (read every 5 ms) and those predicted."""
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    step()
    done.set()
    thread.join()
    taken = predicted.weights + predicted.working
    return {"taken": peak - before, "predicted": taken}


def main(model: Path, small: Path, output: Path, *formats: str) -> None:
    """Measure every step on `model` after it has run on `small`, so that programs are loaded."""
    for at, one in enumerate((small, model)):
        found = {name: measured(*step) for name, step in steps(one, output / f"{at}", formats)}
    print(json.dumps(found))


Step = tuple[Callable[[], object], memory.Memory]


def steps(model: Path, output: Path, formats: Sequence[str]) -> Iterator[tuple[str, Step]]:
    source = Checkpoint.open(model)
    windows = [list(range(3, 3 + LENGTH))] * WINDOWS
    for name in formats:
        kind = find_format(name)
        layers = choose_layers(source.arch, PrecisionConfig(format=name))
        (output / name).mkdir(parents=True)
        predicted = memory.calibration_memory(source, LENGTH, kind, layers)
        call = partial(modelopt.write_checkpoint, model, output / name, kind, layers, windows)
        yield name, (call, predicted)
    simulate = partial(
        simulated.compare_simulated,
        source,
        {name: output / name},
        Inputs([], windows, longest=LENGTH),
    )
    exported = memory.output_bytes(source, kind, layers)
    predicted = memory.simulation_memory(source, LENGTH, LENGTH * WINDOWS, exported)
    yield "simulation", (simulate, predicted)
    weigh = partial(importance.collect_importance, source, windows)
    yield "importance", (weigh, memory.importance_memory(source, LENGTH))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:])
