"""How fast a checkpoint is sliced, beside plainly copying as many bytes, and in how much memory.

Usage: ``python benchmarks/slicing.py [--json] [--gigabytes 4] [--growth] [--candidates 10]
[--edit]``.

A random bf16 checkpoint in Bielik-11B-v3's proportions is generated (50 layers; every width scales
with the head dimension) and cut to those of EXP-010. Slicing and copying alternate, each in a fresh
process whose whole life is timed, start and imports included. Slicing checks that plan and source
belong together, which hashes all of the source, reads, cuts, writes, takes the SHA-256 of every
file and waits for the disk. The copy reads what slicing wrote, writes it and waits for the disk; it
uses neither reflinks nor copying inside the kernel. The figures are medians, the peak is the
kernel's own mark of resident memory (VmHWM), file-backed pages included. Files are read as the
system holds them, mostly from its cache. With ``--edit`` half of every projection's weights are
also zeroed by magnitude, all of the source being written, beside a copy of that. The exit status is
1 if a target was missed.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch
from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint, config_text
from nemo_bielik.hash_cache import SETTLED_SECONDS
from nemo_bielik.pruning.select import PRUNABLE, Importance, select
from nemo_bielik.pruning.stream import lay_out, write_model
from nemo_bielik.tensor_files import BLOCK_BYTES, NewTensor, Raw
from nemo_bielik.tensors import tensor_rows

TARGET_RATIO = 0.7
TARGET_PEAK_BYTES = 1_610_612_736
GROWTH_GIGABYTES = (0.5, 1.0, 2.0, 4.0, 8.0)
_PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_SLICE = """
import sys
from pathlib import Path
from nemo_bielik.artifacts import PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import atomic_directory
from nemo_bielik.pruning.slice import apply_plan
source, plan, output = map(Path, sys.argv[1:])
with atomic_directory(output) as scratch:
    apply_plan(Checkpoint.open(source), PruningPlan.load(plan), scratch)
"""
_EDIT = """
import sys
from pathlib import Path
from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import atomic_directory
from nemo_bielik.pruning.magnitude import editor
from nemo_bielik.pruning.slice import apply_edit
directory, output = map(Path, sys.argv[1:])
source = Checkpoint.open(directory)
edit = WeightEdit(
    arch=source.arch, method="magnitude", sparsity=0.5, source_model=source.fingerprint()
)
with atomic_directory(output) as scratch:
    apply_edit(source, edit, editor(source, None, edit), scratch)
"""
_COPY = """
import os, sys
from pathlib import Path
source, output = map(Path, sys.argv[1:])
output.mkdir()
buffer = memoryview(bytearray(16 << 20))
for path in source.iterdir():
    with path.open("rb") as read, (output / path.name).open("wb") as write:
        while count := read.readinto(buffer):
            write.write(buffer[:count])
        write.flush()
        os.fsync(write.fileno())
"""


def scaled(arch: ModelArch, head_dim: int) -> ModelArch:
    """Return `arch` with every width in proportion to `head_dim` (128 in Bielik), layers kept."""
    widths = {
        name: getattr(arch, name) * head_dim // BIELIK_11B_V3.head_dim
        for name in ("vocab_size", "hidden_size", "ffn_hidden_size", "head_dim")
    }
    return arch.replace(name=f"{arch.name} at {head_dim}/128", **widths)


def arch_of_size(gigabytes: float) -> ModelArch:
    """Return Bielik-11B-v3 scaled to about so many gigabytes of bf16 (head dimension even)."""
    full = 2 * sum(row.numel for row in tensor_rows(BIELIK_11B_V3)) / 1e9
    head_dim = 2 * max(1, round(BIELIK_11B_V3.head_dim * (gigabytes / full) ** 0.5 / 2))
    return scaled(BIELIK_11B_V3, head_dim)


def generate(arch: ModelArch, directory: Path) -> None:
    """Write a checkpoint of random bf16 numbers between −2 and 2, sharded."""
    generator = np.random.default_rng(0)

    def blocks(tensor: NewTensor) -> Iterator[Raw]:
        for start in range(0, tensor.num_bytes, BLOCK_BYTES):
            count = min(BLOCK_BYTES, tensor.num_bytes - start) // 2
            yield generator.integers(0, 2**16, count, dtype=np.uint16) & 0xBFFF

    tensors = [NewTensor(row.name, "BF16", row.shape) for row in tensor_rows(arch)]
    config = arch.to_hf_config({"torch_dtype": "bfloat16"})
    layout = lay_out(tensors, {"config.json": config_text(config).encode()})
    directory.mkdir()
    write_model(layout, blocks, directory, workers=1)


def random_plan(directory: Path, candidate: str) -> PruningPlan:
    """Return what a random ranking keeps of a model for a candidate of the report's Table 2."""
    source, generator = Checkpoint.open(directory), np.random.default_rng(1)
    arch = source.arch
    importance = Importance(
        arch=arch,
        layers=generator.random(arch.num_layers),
        hidden=generator.random(arch.hidden_size),
        ffn=generator.random((arch.num_layers, arch.ffn_hidden_size)),
        model=source.fingerprint(),
    )
    # The fixed fields are the model's own: its configuration has been to disk and back.
    wanted = scaled(EXPERIMENTS[candidate], arch.head_dim)
    return select(importance, arch.replace(**{name: getattr(wanted, name) for name in PRUNABLE}))


def run(code: str, *paths: Path, cache: Path) -> tuple[float, int]:
    """Run Python `code` in a fresh process; return (seconds, peak resident bytes)."""
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-c", code + _PEAK, *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
    )
    return time.perf_counter() - started, 1024 * int(result.stdout.split()[-1])


def measure(source: Path, place: Path, repeats: int) -> dict[str, float]:
    """Cut `source` to EXP-010 and copy the result, in turns; return medians and the peak."""
    plan, sliced, copied = place / "plan.json", place / "sliced", place / "copied"
    random_plan(source, "exp-010").save(plan)
    first: list[float] = []
    known: list[float] = []
    copies: list[float] = []
    peaks: list[int] = []
    for repeat in range(repeats):
        cache = place / f"cache-{repeat}"
        for times in (first, known):  # the source's hash is unknown to the first, not the second
            shutil.rmtree(sliced, ignore_errors=True)
            seconds, peak = run(_SLICE, source, plan, sliced, cache=cache)
            times.append(seconds)
            peaks.append(peak)
        copies.append(run(_COPY, sliced, copied, cache=cache)[0])
        written = size(copied)
        assert written == size(sliced)
        shutil.rmtree(copied)
    shutil.rmtree(sliced)
    seconds, known_seconds, copy = map(statistics.median, (first, known, copies))
    return {
        "gigabytes": size(source) / 1e9,
        "written_gigabytes": written / 1e9,
        "seconds": seconds,
        "known_source_seconds": known_seconds,
        "copy_seconds": copy,
        "ratio": copy / seconds,
        "known_source_ratio": copy / known_seconds,
        "peak_rss_bytes": max(peaks),
    }


def measure_edit(source: Path, place: Path, repeats: int) -> dict[str, float]:
    """Zero half of the weights of `source` by magnitude and copy the result, in turns."""
    edited, copied = place / "edited", place / "copied"
    times: list[float] = []
    copies: list[float] = []
    peaks: list[int] = []
    for repeat in range(repeats):
        cache = place / f"cache-edit-{repeat}"
        seconds, peak = run(_EDIT, source, edited, cache=cache)
        times.append(seconds)
        peaks.append(peak)
        copies.append(run(_COPY, edited, copied, cache=cache)[0])
        written = size(copied)
        assert written == size(edited)
        shutil.rmtree(edited)
        shutil.rmtree(copied)
    seconds, copy = map(statistics.median, (times, copies))
    return {
        "written_gigabytes": written / 1e9,
        "seconds": seconds,
        "copy_seconds": copy,
        "ratio": copy / seconds,
        "peak_rss_bytes": max(peaks),
    }


def measure_candidates(source: Path, place: Path, count: int) -> dict[str, float]:
    """Cut `source` to `count` candidates of Table 2, one after the other, as commands would."""
    times, written, cache = [], 0, place / "cache-candidates"
    for candidate in list(EXPERIMENTS)[:count]:
        random_plan(source, candidate).save(place / "plan.json")
        times.append(run(_SLICE, source, place / "plan.json", place / "out", cache=cache)[0])
        written += size(place / "out")
        shutil.rmtree(place / "out")
    return {
        "candidates": count,
        "seconds": sum(times),
        "first_seconds": times[0],
        "written_gigabytes": written / 1e9,
    }


def size(directory: Path) -> int:
    """Return the bytes of the files in `directory`."""
    return sum(path.stat().st_size for path in directory.iterdir())


def benchmark(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Generate every size in turn, measure it and remove it again."""
    growth, candidates, edit = [], {}, {}
    sizes = {options.gigabytes, *(GROWTH_GIGABYTES if options.growth else ())}
    for gigabytes in sorted(sizes):
        here = place / f"{gigabytes:g}"
        here.mkdir()
        generate(arch_of_size(gigabytes), here / "source")
        time.sleep(SETTLED_SECONDS + 1)  # fresher files are not remembered
        row = measure(here / "source", here, options.repeats)
        print(f"{gigabytes:g} GB: {row['seconds']:.1f} s, {row['ratio']:.2f}", file=sys.stderr)
        growth.append(row)
        if gigabytes == options.gigabytes:
            main_row = row
            if options.candidates:
                candidates = measure_candidates(here / "source", here, options.candidates)
            if options.edit:
                edit = measure_edit(here / "source", here, options.repeats)
        shutil.rmtree(here)
    return {
        "throughput_ratio": main_row["ratio"],
        "known_source_throughput_ratio": main_row["known_source_ratio"],
        "peak_rss_bytes": max(row["peak_rss_bytes"] for row in [*growth, edit] if row),
        "target_ratio": TARGET_RATIO,
        "target_peak_rss_bytes": TARGET_PEAK_BYTES,
        "cpus": len(os.sched_getaffinity(0)),
        "growth": growth,
        "candidates": candidates,
        "edit": edit,
    }


def print_table(result: Mapping[str, Any]) -> None:
    """Print the figures for people."""
    print("source GB  written GB  slice s  (source known)  copy s  ratio  (known)  peak MiB")
    for row in result["growth"]:
        print(
            f"{row['gigabytes']:>9.2f}{row['written_gigabytes']:>12.2f}{row['seconds']:>9.2f}"
            f"{row['known_source_seconds']:>16.2f}{row['copy_seconds']:>8.2f}{row['ratio']:>7.2f}"
            f"{row['known_source_ratio']:>9.2f}{row['peak_rss_bytes'] / 2**20:>10.0f}"
        )
    if many := result["candidates"]:
        print(
            f"{many['candidates']} candidates from one source: {many['seconds']:.1f} s for "
            f"{many['written_gigabytes']:.2f} GB, the first {many['first_seconds']:.1f} s"
        )
    if edit := result["edit"]:
        print(
            f"magnitude's edit: {edit['seconds']:.1f} s for {edit['written_gigabytes']:.2f} GB, "
            f"copy {edit['copy_seconds']:.1f} s, ratio {edit['ratio']:.2f}, peak "
            f"{edit['peak_rss_bytes'] / 2**20:.0f} MiB"
        )


def main() -> int:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--gigabytes", type=float, default=4.0, help="size of the source")
    parser.add_argument("--growth", action="store_true", help="also 0.5, 1, 2, 4 and 8 GB")
    parser.add_argument("--candidates", type=int, default=10, help="of Table 2, at most 10")
    parser.add_argument("--edit", action="store_true", help="also zero weights by magnitude")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--directory", type=Path, help="where to work (default: temporary files)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        os.environ["XDG_CACHE_HOME"] = f"{place}/own-cache"  # leave the user's alone
        result = benchmark(options, Path(place))
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print_table(result)
    fast = result["throughput_ratio"] >= TARGET_RATIO
    return 0 if fast and result["peak_rss_bytes"] < TARGET_PEAK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
