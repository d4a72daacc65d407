"""How long the light commands take to answer, and that they load nothing heavy.

Usage: ``python benchmarks/startup.py [--json] [--repeats N]``. The median of several fresh
processes is shown; the exit status is 1 if a command missed its target or imported a heavy package.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

HEAVY = ("torch", "megatron", "nemo", "nemo_run", "transformers")
COMMANDS = (["--help"], ["plan"])
TARGET_SECONDS = 0.5
_PROBE = """
import sys
from nemo_bielik.cli import main
status = main({argv!r})
loaded = [name for name in {heavy!r} if name in sys.modules]
print(",".join(loaded), file=sys.stderr)
sys.exit(status)
"""


def measure(argv: list[str], repeats: int) -> dict[str, object]:
    """Time ``bielik *argv`` in fresh processes and list the heavy packages that it imported."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        command = [sys.executable, "-m", "nemo_bielik", *argv]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds)
    imported = heavy_imports(argv)
    return {
        "command": " ".join(["bielik", *argv]),
        "median_seconds": round(median, 4),
        "slowest_seconds": round(max(seconds), 4),
        "heavy_imports": imported,
        "ok": median < TARGET_SECONDS and not imported,
    }


def heavy_imports(argv: list[str]) -> list[str]:
    """Return which heavy packages a process holds after ``bielik *argv``."""
    code = _PROBE.format(argv=argv, heavy=HEAVY)
    result = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    return [name for name in result.stderr.strip().split(",") if name]


def main() -> int:
    """Measure every command and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=7, help="processes a command (default: 7)")
    options = parser.parse_args()
    rows = [measure(argv, options.repeats) for argv in COMMANDS]
    if options.json:
        print(json.dumps({"target_seconds": TARGET_SECONDS, "commands": rows}, indent=2))
    else:
        print(f"{'command':<16}{'median s':>10}{'slowest s':>11}  heavy imports")
        for row in rows:
            heavy = ", ".join(row["heavy_imports"]) or "none"  # type: ignore[arg-type]
            times = f"{row['median_seconds']:>10.3f}{row['slowest_seconds']:>11.3f}"
            print(f"{row['command']:<16}{times}  {heavy}")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
