"""Joules from counters (a powercap tree of files), from a rating, and what they come to."""

from pathlib import Path

import pytest

from nemo_bielik.bench.energy import (
    Counter,
    Meter,
    cpu_counters,
    energy_figures,
    find_meter,
)


def zone(root: Path, name: str, microjoules: int, label: str) -> Path:
    """Write a RAPL zone as Linux shows it."""
    place = root / name
    place.mkdir(parents=True)
    (place / "energy_uj").write_text(f"{microjoules}\n")
    (place / "max_energy_range_uj").write_text("1000000000\n")
    (place / "name").write_text(f"{label}\n")
    return place / "energy_uj"


def test_packages_are_read_and_their_parts_are_not_counted_twice(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", 5_000_000, "package-0")
    zone(tmp_path, "intel-rapl:0:0", 4_000_000, "core")
    meter = Meter(cpu_counters(tmp_path), watts=None)
    meter.start()
    package.write_text("17500000\n")
    assert meter.joules() == pytest.approx(12.5)
    assert meter.method == "measured: package-0 (RAPL)"


def test_a_counter_that_starts_over_goes_on(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", 999_000_000, "package-0")
    meter = Meter(cpu_counters(tmp_path), watts=None)
    meter.start()
    package.write_text("2000000\n")
    assert meter.joules() == pytest.approx(3.0)  # 1 J to the end of its range, 2 J after


def test_what_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1, "package-0").unlink()
    assert cpu_counters(tmp_path) == [] == cpu_counters(tmp_path / "absent")


def test_a_measurement_goes_before_a_rating() -> None:
    readings = iter([10.0, 25.0])
    meter = Meter([Counter("GPU 0 (NVML)", lambda: next(readings))], watts=1e9)
    meter.start()
    assert meter.joules() == 15.0


def test_a_rating_is_power_times_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 104.0])
    monkeypatch.setattr("nemo_bielik.bench.energy.time.monotonic", lambda: next(times))
    meter = Meter([], watts=65.0)
    meter.start()
    assert meter.joules() == 260.0
    assert meter.method == "rated: 65 W"


def test_nothing_is_claimed_of_another_machine() -> None:
    meter = find_meter(is_here=False, watts=None)
    meter.start()
    assert meter.joules() is None and meter.method is None


def test_joules_tokens_and_grams_by_hand() -> None:
    # 7,200 J are 2 Wh; over 1,000 tokens 7.2 J each and 2,000 Wh a million; 600 g/kWh make 1.2 g
    found = energy_figures(7200.0, 1000, "rated: 1 W", 600.0)
    assert found["joules_per_output_token"] == 7.2
    assert found["watt_hours_per_million_output_tokens"] == 2000
    assert found["grams_co2"] == pytest.approx(1.2)
    assert found["grams_co2_per_million_output_tokens"] == 1200
    assert "grams_co2" not in energy_figures(7200.0, 1000, "rated: 1 W", None)
