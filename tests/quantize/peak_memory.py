"""Run each step that loads a model in this process; print predicted and measured bytes as JSON."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.quantize import importance, memory, modelopt, simulated
from nemo_bielik.quantize.inputs import Inputs
from nemo_bielik.quantize.modelopt_formats import find_format
from nemo_bielik.quantize.modelopt_layers import PrecisionConfig, choose_layers

LENGTH, WINDOWS = 256, 2


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def measured(step: Callable[[], object], predicted: memory.Memory) -> dict[str, int]:
    """Return bytes before `step`, at its peak (read every 5 ms), and what was predicted."""
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
    return {"before": before, "peak": peak, "predicted": predicted.total, "predicted_taken": taken}


def main(model: Path, output: Path) -> None:
    source, kind = Checkpoint.open(model), find_format("fp8")
    layers = choose_layers(source.arch, PrecisionConfig(format=kind.name))
    windows = [list(range(3, 3 + LENGTH))] * WINDOWS
    output.mkdir()
    calibrate = lambda: modelopt.write_checkpoint(model, output, kind, layers, windows)  # noqa: E731
    simulate = lambda: simulated.compare_simulated(  # noqa: E731
        source, {kind.name: output}, Inputs([], windows, longest=LENGTH)
    )
    weigh = lambda: importance.collect_importance(source, windows)  # noqa: E731
    steps = {
        "calibration": (calibrate, memory.calibration_memory(source, LENGTH, layers)),
        "simulation": (simulate, memory.simulation_memory(source, LENGTH, LENGTH * WINDOWS)),
        "importance": (weigh, memory.importance_memory(source, LENGTH)),
    }
    print(json.dumps({name: measured(*step) for name, step in steps.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
