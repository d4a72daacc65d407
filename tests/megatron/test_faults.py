"""The fault campaign of ``benchmarks/faults.py``, small."""

import json
import os
import subprocess
import sys
from pathlib import Path

CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "faults.py"
STRIKES = 6


def test_a_run_that_is_struck_again_and_again_ends_with_the_same_bytes(tmp_path):
    command = [sys.executable, "-W", "ignore", str(CAMPAIGN), "--kills", str(STRIKES), "--json"]
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    run = subprocess.run(
        [*command, "--folder", str(tmp_path / "campaign")],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    found = json.loads(run.stdout)
    assert found["ok"]
    assert found["strikes"] == STRIKES
    assert found["laps"] >= 1
    assert found["starts"] > STRIKES
    assert sum(sum(phases.values()) for phases in found["by_kind"].values()) == STRIKES
