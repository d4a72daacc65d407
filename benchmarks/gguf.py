"""How fast a checkpoint becomes a GGUF file, beside plainly copying as many bytes; in what memory.

Usage: ``python benchmarks/gguf.py [--json] [--gigabytes 8] [--runs 3] [--format Q4_K_M]``.

A random bf16 checkpoint in Bielik-11B-v3's proportions is generated and converted to BF16. The
conversion reads, checks for NaN, permutes, writes and waits for the disk; the copy reads the
checkpoint, writes it and waits for the disk. They alternate, each in a fresh process whose whole
life is timed. With ``--format`` llama.cpp then quantises the file. Peaks are of anonymous memory
(RssAnon, read every 10 ms): pages of mapped files can be dropped at any time and are not counted.
The exit status is 1 if a target was missed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slicing import _COPY, arch_of_size, generate

TARGET_RATIO = 0.7
TARGET_PEAK_BYTES = 3 * 2**30
_CONVERT = """
import sys
from pathlib import Path
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.files import atomic_file
from nemo_bielik.quantize.gguf_file import write_gguf
source, output = map(Path, sys.argv[1:])
with atomic_file(output) as scratch:
    write_gguf(Checkpoint.open(source), "BF16", scratch)
"""
_QUANTIZE = """
import sys
from pathlib import Path
from nemo_bielik.files import atomic_file
from nemo_bielik.quantize.formats import FORMATS
from nemo_bielik.quantize.llama_cpp import quantize_file
source, output = map(Path, sys.argv[1:3])
with atomic_file(output) as scratch:
    quantize_file(source, scratch, FORMATS[sys.argv[3]])
"""


def run(code: str, *words: object) -> tuple[float, int]:
    """Run Python `code` in a fresh process; return (seconds, peak anonymous bytes)."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, words)])
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - started, peak


def anonymous_bytes(process: int) -> int:
    """Return the resident anonymous memory of a process; 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * sum(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")
    )


def add_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write a byte-level tokenizer that fits a vocabulary: the 256 bytes and three more."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate(["<unk>", "<s>", "</s>", *alphabet])}
    assert len(vocab) <= vocab_size
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def measure(folder: Path, gigabytes: float, runs: int, wanted: str) -> dict[str, object]:
    """Return the figures of a model of so many gigabytes."""
    source, file = folder / "model", folder / "model.gguf"
    arch = arch_of_size(gigabytes)
    generate(arch, source)
    add_tokenizer(source, arch.vocab_size)
    copies, conversions, peaks = [], [], []
    for _ in range(runs):
        seconds, _ = run(_COPY, source, folder / "copy")
        copies.append(seconds)
        subprocess.run(["rm", "-r", folder / "copy"], check=True)
        file.unlink(missing_ok=True)
        seconds, peak = run(_CONVERT, source, file)
        conversions.append(seconds)
        peaks.append(peak)
    size = file.stat().st_size
    found: dict[str, object] = {
        "source_bytes": size,
        "copy_seconds": statistics.median(copies),
        "convert_seconds": statistics.median(conversions),
        "throughput_ratio": statistics.median(copies) / statistics.median(conversions),
        "peak_rss_bytes": max(peaks),
    }
    if wanted:
        seconds, peak = run(_QUANTIZE, file, folder / "small.gguf", wanted)
        found |= {
            "format": wanted,
            "quantize_seconds": seconds,
            "quantize_peak_rss_bytes": peak,
            "quantized_bytes": (folder / "small.gguf").stat().st_size,
        }
        found["peak_rss_bytes"] = max(*peaks, peak)
    return found


def main() -> int:
    """Measure and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--gigabytes", type=float, default=8, help="of the source (default: 8)")
    parser.add_argument("--runs", type=int, default=3, help="of each contender (default: 3)")
    parser.add_argument("--format", default="", help="also quantise to this format")
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary one)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = measure(Path(name), options.gigabytes, options.runs, options.format)
    targets = {"target_ratio": TARGET_RATIO, "target_peak_bytes": TARGET_PEAK_BYTES}
    if options.json:
        print(json.dumps({**found, **targets}, indent=2))
    else:
        print("\n".join(f"{key:<24}{value}" for key, value in found.items()))
    ratio, peak = found["throughput_ratio"], found["peak_rss_bytes"]
    assert isinstance(ratio, float) and isinstance(peak, int)
    return 0 if ratio >= TARGET_RATIO and peak < TARGET_PEAK_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
