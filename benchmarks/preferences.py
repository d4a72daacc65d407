"""The memory of a DPO-Positive step beside a fine-tuning step on the same tokens.

Usage: ``python benchmarks/preferences.py [--json] [--rounds 3]``. One process each, fp32, a random
model with Bielik's whole vocabulary, one row of 2,048 tokens that holds eight pairs; forward and
backward pass of the engine's objectives (`Preferences`, its reference read from disk, and
`Supervised`, which learns both answers), no optimizer. Memory is the peak of a step (VmHWM, file
pages left out) above what is held with the model and its gradients allocated. For scale,
`NextToken`, which keeps all logits, and the bytes of the second model that DPO would hold without
stored log-probabilities. ``memory_ratio`` is that of DPO-Positive to fine-tuning; the exit status
is 1 above 1.1. Seconds are medians, in turns.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from align_step import (
    answer,
    build,
    make_documents,
    make_row,
    random_reference,
    step_of,
    write_model,
)
from distill_loss import ask, memory, reset_peak

TARGET = 1.1
LENGTH, PAIRS = 2048, 8
SIZES: dict[str, Any] = {
    "vocab_size": 32128,
    "num_layers": 4,
    "hidden_size": 512,
    "ffn_hidden_size": 1792,
    "num_attention_heads": 4,
    "num_query_groups": 1,
    "head_dim": 128,
}
CONTENDERS = ("dpo", "sft", "next token")


def objective_of(name: str, folder: Path, batch: dict[str, Any]) -> Any:
    """Return what a contender minimises."""
    from nemo_bielik.megatron.objectives import NextToken
    from nemo_bielik.megatron.preferences import Preferences
    from nemo_bielik.megatron.supervised import Supervised

    if name == "dpo":
        return Preferences(random_reference(folder / "reference", batch), None, 0.3, 50.0)
    return Supervised() if name == "sft" else NextToken()


def anonymous(field: str) -> int:
    """Return a figure of this process without pages of files, in bytes."""
    return memory("cpu", field, "") - memory("cpu", "RssFile", "")


def work(settings: dict[str, Any]) -> None:
    """Answer every line from the parent with one step's figures."""
    from nemo_bielik.megatron.model import distributed_session

    warnings.simplefilter("ignore")
    folder = Path(settings["folder"])
    length = LENGTH // (2 * PAIRS)
    batch = make_row(make_documents([length] * 2 * PAIRS, SIZES["vocab_size"]), LENGTH)
    with distributed_session(), contextlib.redirect_stdout(sys.stderr):
        objective = objective_of(settings["worker"], folder, batch)
        model = build(objective, folder / "model", LENGTH)
        step = step_of(objective, model, [batch])
        held = anonymous("VmRSS")
        answer(json.dumps({"held_bytes": held}))
        for _ in sys.stdin:
            reset_peak("cpu")
            started, before = time.perf_counter(), anonymous("VmRSS")
            loss = step()
            seconds = time.perf_counter() - started
            peak = anonymous("VmHWM")
            figures = {"seconds": seconds, "step_bytes": peak - before, "peak_bytes": peak}
            answer(json.dumps({**figures, "loss": loss}))


def measure(rounds: int) -> dict[str, Any]:
    """Return every contender's figures and the ratio."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_model(folder / "model", SIZES)
        log = stack.enter_context((folder / "log").open("w+"))
        workers = {}
        for contender in CONTENDERS:
            settings = json.dumps({"worker": contender, "folder": name})
            worker = subprocess.Popen(
                [sys.executable, __file__, "--settings", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            workers[contender] = stack.enter_context(worker)
            try:
                ask(worker, "")  # one at a time gets ready
            except SystemExit:
                print((folder / "log").read_text(), file=sys.stderr)
                raise
        turns = [{n: ask(w, "step\n") for n, w in workers.items()} for _ in range(rounds + 1)]
        weights = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
    found = {
        contender: {
            "seconds": statistics.median(turn[contender]["seconds"] for turn in turns[1:]),
            # the first step allocates: it alone starts from what is held
            "step_bytes": turns[0][contender]["step_bytes"],
            "peak_bytes": max(turn[contender]["peak_bytes"] for turn in turns),
            "loss": turns[0][contender]["loss"],
        }
        for contender in CONTENDERS
    }
    ratio = found["dpo"]["step_bytes"] / found["sft"]["step_bytes"]
    return {
        **found,
        "memory_ratio": round(ratio, 4),
        "peak_ratio": round(found["dpo"]["peak_bytes"] / found["sft"]["peak_bytes"], 4),
        "second_model_bytes": weights,
        "targets": {"memory_ratio": TARGET},
    }


def main() -> int:
    """Measure and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settings:
        work(json.loads(options.settings))
        return 0
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{'':<12}{'seconds':>9}{'step MiB':>10}{'peak MiB':>10}")
        for name in CONTENDERS:
            row = found[name]
            sizes = [f"{row[size] / 2**20:>10.0f}" for size in ("step_bytes", "peak_bytes")]
            print(f"{name:<12}{row['seconds']:>9.2f}{''.join(sizes)}")
        print(f"memory_ratio {found['memory_ratio']}, peak_ratio {found['peak_ratio']}")
        print(f"a second model would hold {found['second_model_bytes'] / 2**20:.0f} MiB more")
    return 0 if found["memory_ratio"] <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
