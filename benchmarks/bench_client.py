"""How far the bench client's latencies are from those that the server itself saw.

Usage: ``python benchmarks/bench_client.py [--json] [--real-time] [--concurrency N] …``. A stub
server in a process of its own sends tokens at known times and writes down when it did (the clock is
shared). Its own figures, from a request's arrival and its tokens' sending, are compared with the
client's, percentile by percentile. The exit status is 1 if one is more than 2 ms off.

``--real-time`` puts both processes before all others (SCHED_FIFO; needs the right to): on a busy
machine the deviation is otherwise that of its scheduler.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from nemo_bielik.bench.connection import Address
from nemo_bielik.bench.environment import load_average
from nemo_bielik.bench.load import Endpoint, run_round
from nemo_bielik.bench.metrics import LATENCIES, PERCENTILES, RequestTimes, summarize
from nemo_bielik.bench.servers import stop

STUB = Path(__file__).parents[1] / "tests" / "bench" / "stub_server.py"
TARGET_MS = 2.0


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Run one round against the stub and compare both sides' percentiles."""
    words = [sys.executable, str(STUB), "--first-seconds", str(given.first_ms / 1e3)]
    words += ["--token-seconds", str(given.token_ms / 1e3)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as stub:
        try:
            assert stub.stdout is not None
            port = int(stub.stdout.readline())
            if given.real_time:
                for process in (0, stub.pid):
                    os.sched_setscheduler(process, os.SCHED_FIFO, os.sched_param(1))
            endpoint = Endpoint(Address.parse(f"http://127.0.0.1:{port}/v1"), "stub")
            bodies = [endpoint.body("x", given.tokens)] * given.requests
            found = asyncio.run(run_round(endpoint, bodies, given.concurrency, given.ramp, 600))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/record") as answer:
                record = json.load(answer)
        finally:
            stop(stub)
    assert not found.failure, found.failure
    server = [RequestTimes(one["arrival"], tuple(one["sent"]), one["tokens"]) for one in record]
    return compare(summarize([server]), summarize([found.requests])) | {
        "concurrency": given.concurrency,
        "requests": given.requests,
        "tokens": given.tokens,
        "real_time": given.real_time,
        "load_average": load_average(),
    }


def compare(server: dict[str, Any], client: dict[str, Any]) -> dict[str, Any]:
    """Return every percentile of both sides and the largest difference."""
    rows = []
    for name in LATENCIES:
        for p in (f"p{p}" for p in PERCENTILES):
            off = client[name][p] - server[name][p]
            row = {"latency": name, "percentile": p, "server_ms": server[name][p]}
            rows.append(row | {"client_ms": client[name][p], "off_ms": round(off, 4)})
    largest = max(abs(row["off_ms"]) for row in rows)
    throughput = client["output_tokens_per_second"] / server["output_tokens_per_second"] - 1
    return {
        "rows": rows,
        "largest_off_ms": largest,
        "throughput_off_percent": round(100 * throughput, 3),
        "target_ms": TARGET_MS,
        "ok": largest <= TARGET_MS,
    }


def main() -> int:
    """Measure and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--real-time", action="store_true", help="run before all other processes")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--first-ms", type=float, default=200.0)
    parser.add_argument("--token-ms", type=float, default=50.0)
    parser.add_argument("--ramp", type=float, default=0.25, help="seconds")
    given = parser.parse_args()
    found = measure(given)
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{'':<20}{'':>4}{'server ms':>12}{'client ms':>12}{'off ms':>9}")
        for row in found["rows"]:
            print(
                f"{row['latency']:<20}{row['percentile']:>4}{row['server_ms']:>12.3f}"
                f"{row['client_ms']:>12.3f}{row['off_ms']:>9.3f}"
            )
        print(
            f"largest {found['largest_off_ms']:.3f} ms (wanted: at most {TARGET_MS:g}); throughput "
            f"{found['throughput_off_percent']:+.2f} %; load average {found['load_average']}"
        )
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
