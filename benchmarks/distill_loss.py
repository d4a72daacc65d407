"""The fused distillation loss against the four matrix products it needs, and against its peers.

Usage: ``python benchmarks/distill_loss.py [--json] [--tokens 1024 4096 8192] [--hidden 1024]
[--vocab 32128] [--dtype fp32] [--rounds 3]``. From hidden states and output weights of a student
and a teacher (of equal width) to forward KL, summed, and its gradients with respect to the
student's hidden states and weight:

products  the four matrix products alone, each over all tokens at once into allocated memory
ours      `nemo_bielik.distill.fused.fused_loss`
modelopt  logits by torch, ModelOpt's `LogitsKLLoss` on them, backward
kl_div    logits by torch, log_softmax, softmax and `torch.nn.functional.kl_div`, backward
liger     `LigerFusedLinearJSD` with beta 0, on a GPU where it is installed

Every contender is a process of its own, with one warm-up. Rounds alternate between them, so that
what else the machine does meets all alike; the fastest round counts. Memory is the peak (VmHWM on
a CPU, the allocator's on a GPU) above what is held with inputs and gradients allocated. Processor
seconds are shown too: on a busy CPU they tell the work from the waiting. All must find the same
loss. The ratios are those of the largest number of tokens; the exit status is 1 if one misses.
"""

import argparse
import contextlib
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TARGETS = {"gemm_ratio": 1.25, "modelopt_time_ratio": 1.0, "memory_ratio": 0.2}
TARGETS_GPU = {**TARGETS, "gemm_ratio": 1.15}


def make_inputs(options: argparse.Namespace) -> tuple[Any, ...]:
    """Return student's hidden and weight with gradients allocated, teacher's hidden and weight."""
    import torch

    torch.manual_seed(1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    tensors = []
    for _ in range(2):
        hidden = torch.randn(options.tokens, options.hidden, dtype=dtype, device=options.device)
        weight = torch.randn(options.vocab, options.hidden, dtype=dtype, device=options.device)
        tensors += [hidden, weight.mul_(2 * options.hidden**-0.5)]
    for tensor in tensors[:2]:
        tensor.requires_grad_()
        tensor.grad = torch.zeros_like(tensor)
    return tuple(tensors)


def products(inputs: tuple[Any, ...]) -> Callable[[], float | None]:
    import torch

    h_s, w_s, h_t, w_t = (tensor.detach() for tensor in inputs)
    logits, target = (h_s.new_zeros(len(h_s), len(w_s)) for _ in range(2))
    slopes, weight_slopes = (tensor.grad for tensor in inputs[:2])

    def step() -> None:
        torch.mm(h_s, w_s.t(), out=logits)
        torch.mm(h_t, w_t.t(), out=target)
        torch.mm(logits, w_s, out=slopes)
        torch.mm(logits.t(), h_s, out=weight_slopes)

    return step


def backward_of(loss: Callable[[], Any]) -> Callable[[], float | None]:
    def step() -> float:
        total = loss()
        total.backward()
        return float(total)

    return step


def ours(inputs: tuple[Any, ...]) -> Callable[[], float | None]:
    import torch

    from nemo_bielik.distill.fused import OutputLayer, fused_loss

    h_s, w_s, h_t, w_t = inputs
    mask = torch.ones(len(h_s), device=h_s.device)
    pair = OutputLayer(h_s, w_s), OutputLayer(h_t, w_t)
    return backward_of(lambda: fused_loss(*pair, mask)[0])


def through_logits(
    inputs: tuple[Any, ...], loss: Callable[[Any, Any], Any]
) -> Callable[[], float | None]:
    import torch

    h_s, w_s, h_t, w_t = inputs

    def whole() -> Any:
        with torch.no_grad():
            target = h_t @ w_t.t()
        return loss(h_s @ w_s.t(), target)

    return backward_of(whole)


def modelopt(inputs: tuple[Any, ...]) -> Callable[[], float | None]:
    from modelopt.torch.distill.plugins.megatron import LogitsKLLoss

    criterion = LogitsKLLoss(SimpleNamespace(tensor_model_parallel_size=1))
    return through_logits(inputs, lambda s, t: criterion(s.unsqueeze(1), t.unsqueeze(1))[0].sum())


def kl_div(inputs: tuple[Any, ...]) -> Callable[[], float | None]:
    import torch
    from torch.nn import functional

    def loss(student: Any, teacher: Any) -> Any:
        log_q = functional.log_softmax(student, -1, dtype=torch.float32)
        p = functional.softmax(teacher, -1, dtype=torch.float32)
        return functional.kl_div(log_q, p, reduction="sum")

    return through_logits(inputs, loss)


def liger(inputs: tuple[Any, ...]) -> Callable[[], float | None]:
    from liger_kernel.transformers import LigerFusedLinearJSD  # type: ignore[import-not-found]

    mean = LigerFusedLinearJSD(jsd_beta=0.0)
    return backward_of(lambda: mean(*inputs) * len(inputs[0]))


CONTENDERS = {f.__name__: f for f in (products, ours, modelopt, kl_div, liger)}


def work(options: argparse.Namespace) -> None:
    """Answer every line from the parent with one step's figures."""
    warnings.simplefilter("ignore")
    step = CONTENDERS[options.worker](make_inputs(options))
    print("{}", flush=True)
    for _ in sys.stdin:
        reset_peak(options.device)
        held = memory(options.device, "VmRSS", "memory_allocated")
        wall, cpu = time.perf_counter(), time.process_time()
        loss = step()
        if options.device == "cuda":
            memory("cuda", "", "synchronize")
        figures = {
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
            "peak_bytes": memory(options.device, "VmHWM", "max_memory_allocated") - held,
            "loss": loss,
        }
        print(json.dumps(figures), flush=True)


def memory(device: str, field: str, function: str) -> int:
    """Return a figure of this process in bytes, or what a function of torch.cuda says."""
    if device == "cuda":
        import torch

        return getattr(torch.cuda, function)() or 0
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024


def reset_peak(device: str) -> None:
    if device == "cuda":
        memory("cuda", "", "reset_peak_memory_stats")
    else:
        Path("/proc/self/clear_refs").write_text("5")


def measure(tokens: int, options: argparse.Namespace, names: list[str]) -> dict[str, Any]:
    """Return every contender's figures at a number of tokens."""
    with contextlib.ExitStack() as stack:
        workers = {}
        for name in names:
            settings = {**vars(options), "tokens": tokens, "worker": name}
            command = [sys.executable, __file__, "--settings", json.dumps(settings)]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(worker)
            ask(worker, "")  # one at a time gets ready
            workers[name] = worker
        rounds = [
            {name: ask(worker, "step\n") for name, worker in workers.items()}
            for _ in range(options.rounds + 1)
        ]
    return {"tokens": tokens, **summary(rounds, names)}


def ask(worker: Any, line: str) -> dict[str, Any]:
    worker.stdin.write(line)
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit("a contender died; its error is above")
    return dict(json.loads(answer))


def summary(rounds: list[dict[str, dict[str, Any]]], names: list[str]) -> dict[str, Any]:
    """Return the best times, the first round being a warm-up, the highest peaks, and ratios."""
    found: dict[str, Any] = {
        name: {
            "seconds": min(turn[name]["seconds"] for turn in rounds[1:]),
            "cpu_seconds": min(turn[name]["cpu_seconds"] for turn in rounds[1:]),
            "peak_bytes": max(turn[name]["peak_bytes"] for turn in rounds),
            "loss": rounds[0][name]["loss"],
        }
        for name in names
    }
    mine, vendor, bare = found["ours"], found["modelopt"], found["products"]
    for name in names[1:]:
        if abs(found[name]["loss"] / mine["loss"] - 1) > 1e-2:
            raise SystemExit(f"{name} finds a loss of {found[name]['loss']}, not {mine['loss']}")
    return {
        **found,
        "gemm_ratio": round(mine["seconds"] / bare["seconds"], 4),
        "gemm_cpu_ratio": round(mine["cpu_seconds"] / bare["cpu_seconds"], 4),
        "modelopt_time_ratio": round(mine["seconds"] / vendor["seconds"], 4),
        "memory_ratio": round(mine["peak_bytes"] / vendor["peak_bytes"], 4),
    }


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--tokens", type=int, nargs="+", help="ladder (default: by device)")
    parser.add_argument("--hidden", type=int, help="width of both models (default: by device)")
    parser.add_argument("--vocab", type=int, default=32128, help="vocabulary (default: 32128)")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="default: by device")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.settings:
        return argparse.Namespace(**json.loads(options.settings))
    import torch

    gpu = torch.cuda.is_available()
    options.device = "cuda" if gpu else "cpu"
    options.tokens = options.tokens or ([2**n for n in range(11, 17)] if gpu else [1024, 8192])
    options.hidden = options.hidden or (4096 if gpu else 1024)
    options.dtype = options.dtype or ("bf16" if gpu else "fp32")
    return options


def main() -> int:
    """Measure the ladder and print a table or one JSON object."""
    options = read_options()
    if getattr(options, "worker", ""):
        work(options)
        return 0
    gpu = options.device == "cuda"
    with_liger = gpu and importlib.util.find_spec("liger_kernel") is not None
    names = [name for name in CONTENDERS if name != "liger" or with_liger]
    cases = [measure(tokens, options, names) for tokens in sorted(options.tokens)]
    targets = TARGETS_GPU if gpu else TARGETS
    ratios = {name: cases[-1][name] for name in targets}
    if options.json:
        shape = {name: getattr(options, name) for name in ("device", "dtype", "hidden", "vocab")}
        print(json.dumps({**ratios, "targets": targets, **shape, "cases": cases}, indent=2))
    else:
        print_table(cases, names)
    return 0 if all(ratios[name] <= targets[name] for name in targets) else 1


def print_table(cases: list[dict[str, Any]], names: list[str]) -> None:
    print(f"{'tokens':>7} {'contender':<10}{'seconds':>9}{'cpu s':>9}{'peak MiB':>10}")
    for case in cases:
        for name in names:
            row = case[name]
            times = f"{row['seconds']:>9.3f}{row['cpu_seconds']:>9.3f}"
            print(f"{case['tokens']:>7} {name:<10}{times}{row['peak_bytes'] / 2**20:>10.0f}")
        print(" " * 8 + ", ".join(f"{name} {case[name]}" for name in (*TARGETS, "gemm_cpu_ratio")))


if __name__ == "__main__":
    sys.exit(main())
