"""Energy of a round: measured by the hardware's counters, or reckoned from a rated power.

NVIDIA GPUs since Volta count the energy of the whole board (NVML), CPUs that of each package (RAPL,
Linux powercap). Both count everything that the machine does meanwhile, not one server alone.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
_JOULES_PER_WH = 3600.0


@dataclass(frozen=True)
class Counter:
    """A counter of joules that only grows, but for starting over at `range_joules`."""

    name: str
    read: Callable[[], float]
    range_joules: float | None = None

    def since(self, before: float) -> float:
        """Return the joules since the reading `before`."""
        grown = self.read() - before
        return grown + self.range_joules if grown < 0 and self.range_joules else grown


class Meter:
    """Joules between `start` and `joules`, from counters, or from `watts` where there are none."""

    def __init__(self, counters: list[Counter], watts: float | None) -> None:
        self.counters = counters
        self.watts = watts
        self._before: list[float] = []
        self._started = 0.0

    @property
    def method(self) -> str | None:
        """How the joules are known: measured by what, or rated."""
        if self.counters:
            return "measured: " + ", ".join(counter.name for counter in self.counters)
        return None if self.watts is None else f"rated: {self.watts:g} W"

    def start(self) -> None:
        """Begin to count."""
        self._started = time.monotonic()
        self._before = [counter.read() for counter in self.counters]

    def joules(self) -> float | None:
        """Return the joules since `start`; None where neither counter nor rating is known."""
        if self.counters:
            return sum(c.since(b) for c, b in zip(self.counters, self._before, strict=True))
        return None if self.watts is None else self.watts * (time.monotonic() - self._started)


def find_meter(is_here: bool, watts: float | None) -> Meter:
    """Return this machine's counters if the server runs here (`is_here`), else the rating alone."""
    return Meter([*gpu_counters(), *cpu_counters()] if is_here else [], watts)


def gpu_counters() -> list[Counter]:
    """Return one counter for every NVIDIA GPU of this machine that counts its energy."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        number = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError:  # no driver, no GPU
        return []
    found = []
    for index in range(number):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)

        def read(handle: Any = handle) -> float:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

        with contextlib.suppress(pynvml.NVMLError):  # older than Volta
            read()
            found.append(Counter(f"GPU {index} (NVML)", read))
    return found


def cpu_counters(root: Path = POWERCAP) -> list[Counter]:
    """Return one counter for every CPU package whose energy this user may read."""
    found = []
    for zone in sorted(root.glob("intel-rapl:*")) if root.is_dir() else []:
        if zone.name.count(":") > 1:
            continue  # a part of a package, counted there
        file = zone / "energy_uj"

        def read(file: Path = file) -> float:
            return int(file.read_text()) / 1e6

        with contextlib.suppress(OSError, ValueError):
            read()
            limit = int((zone / "max_energy_range_uj").read_text()) / 1e6
            found.append(Counter(f"{(zone / 'name').read_text().strip()} (RAPL)", read, limit))
    return found


def energy_figures(
    joules: float, output_tokens: int, method: str, grid_grams_per_kwh: float | None
) -> dict[str, Any]:
    """Return joules, watt-hours and, if the grid's intensity is given, grams of CO₂ equivalent."""
    watt_hours = joules / _JOULES_PER_WH
    found: dict[str, Any] = {
        "method": method,
        "joules": round(joules, 3),
        "joules_per_output_token": round(joules / output_tokens, 4),
        "watt_hours_per_million_output_tokens": round(watt_hours / output_tokens * 1e6, 2),
    }
    if grid_grams_per_kwh is not None:
        grams = watt_hours / 1e3 * grid_grams_per_kwh
        found["grid_grams_co2_per_kwh"] = grid_grams_per_kwh
        found["grams_co2"] = round(grams, 5)
        found["grams_co2_per_million_output_tokens"] = round(grams / output_tokens * 1e6, 2)
    return found
