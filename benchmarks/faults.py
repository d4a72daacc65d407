"""Distillations that are struck again and again end with the weights of one that was left alone.

Usage: ``python benchmarks/faults.py [--kills 200] [--json] [--folder runs/faults] [--seed 1]``. A
tiny distillation runs once undisturbed; then laps of it are struck, started again and struck again
until they end, and as many laps are run as it takes. A strike is one of:

kill       SIGKILL at a random moment, while a checkpoint is written, or during the final export
terminate  SIGTERM at a random moment or while a checkpoint is written: exit status 0 once training
torn       SIGKILL, and then a file of the newest checkpoint cut short or with one bit turned
full disk  no space left from a random moment on: one line, exit status 2

Every start is a fork of a process that has imported the engine. Where a file system may be mounted
the run lies on a small one, which is filled for real; elsewhere a limit on the size of files stands
in. The state is written after every start: the same command goes on after a kill of its own. The
exit status is 1 if weights differ in a byte, a start ends as it should not, or leaves a process.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nemo_bielik.arch import ModelArch
from nemo_bielik.data.indexed import TokenWriter, token_dtype
from nemo_bielik.distill.stage import DistillConfig, distill
from nemo_bielik.errors import BielikError
from nemo_bielik.files import sibling, write_json
from nemo_bielik.initialize import write_random
from nemo_bielik.launch.local import die_with
from nemo_bielik.manifest import Manifest
from nemo_bielik.progress import progress
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig

ITERS, SAVE_INTERVAL = 24, 4
DISK_BYTES = 48 << 20
_GONE_WITHIN_SECONDS = 10.0
_LOOK_SECONDS = 0.001
_MARKS = {"training": "metrics.jsonl", "exporting": "last.partial", "exported": "last"}
_PHASES = ("exporting", "writing", "training")
SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "ffn_hidden_size": 128,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "head_dim": 16,
}


@dataclass(frozen=True)
class Strike:
    """What is done to a run, at which of its moments ("" is any), and how often of 100 times."""

    kind: str
    moment: str
    share: int


STRIKES = (
    Strike("kill", "", 30),
    Strike("kill", "writing", 18),
    Strike("kill", "exporting", 10),
    Strike("terminate", "", 18),
    Strike("terminate", "writing", 6),
    Strike("torn", "", 12),
    Strike("full disk", "", 6),
)


class Watched:
    """A started run, seen from outside: what it is doing, and how to strike it."""

    def __init__(self, start: Callable[[], Any], work: Path, output: Path) -> None:
        self.work, self.output = work, output
        self.before = self._inodes()
        self.process = start()

    def phase(self) -> str:
        """Return what the run is at; files that an earlier start left do not count."""
        new = {name for name, number in self._inodes().items() if self.before.get(name) != number}
        if "output" in new or "publishing" in new:
            return "publishing"
        for phase, mark in (("exporting", "exported"), *((name, name) for name in _PHASES)):
            if mark in new:
                return phase
        return "starting"

    def _inodes(self) -> dict[str, int]:
        places = {name: self.work / path for name, path in _MARKS.items()}
        places |= {"publishing": sibling(self.output, "partial"), "output": self.output}
        found = {}
        unsealed = [p for p in self.work.glob("checkpoints/iter_*") if not is_sealed(p)]
        for name, path in [*places.items(), *(("writing", path) for path in unsealed)]:
            with contextlib.suppress(FileNotFoundError):
                found[name] = path.stat().st_ino
        return found

    def wait(self, moment: str, seconds: float) -> bool:
        """Wait for a moment of the run (any: for `seconds`); return whether it still runs then."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive():
            here = self.phase() if moment else ""
            if moment and (here == moment or (moment, here) == ("exporting", "publishing")):
                return True
            if not moment and time.monotonic() >= deadline:
                return True
            time.sleep(_LOOK_SECONDS)
        return False


def is_sealed(checkpoint: Path) -> bool:
    return (checkpoint / "complete.json").is_file()


class Campaign:
    """Laps of one run under strikes; what happened is in `state`, kept in a file."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.record = folder / "state.json"
        empty = {"starts": 0, "strikes": [], "laps": 0, "different": 0, "faults": []}
        known = self.record.is_file()
        self.state: dict[str, Any] = json.loads(self.record.read_text()) if known else empty
        self.disk = folder / "disk"
        self.disk.mkdir(exist_ok=True)
        self.mounted = mount(self.disk)
        (self.disk / "ballast").unlink(missing_ok=True)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["nemo_bielik.megatron.engine", "psutil"])

    def run(self, kills: int) -> None:
        """Strike until `kills` of the strikes have hit, and let the last lap end."""
        expected, seconds = self._reference()
        with progress(total=kills, initial=self._hits(), desc="faults", unit="hit") as bar:
            while self._hits() < kills or work_directory(self._output).is_dir():
                quickest = min(seconds, self.state.get("seconds", seconds))
                self._start(quickest, strike=self._hits() < kills)
                if self._output.is_dir():
                    self._end_lap(expected)
                write_json(self.record, self.state)
                bar.update(self._hits() - bar.n)
                if self.state["faults"] or self.state["different"]:
                    return

    @property
    def _output(self) -> Path:
        return self.disk / "output"

    def _hits(self) -> int:
        return len(self.state["strikes"])

    def _reference(self) -> tuple[bytes, float]:
        """Return the weights of the undisturbed run, and its seconds; made once."""
        output = self.folder / "undisturbed"
        seconds = self.folder / "undisturbed.json"
        if not seconds.is_file():
            self._process(None).join()  # the engine is imported now
            remove(output)
            remove(work_directory(output))
            started = time.monotonic()
            process = self._process(output)
            process.join()
            if process.exitcode:
                raise SystemExit((self.folder / "said.txt").read_text())
            took = time.monotonic() - started
            write_json(seconds, took)
        return weights(output), float(json.loads(seconds.read_text()))

    def _process(self, output: Path | None) -> Any:
        said = self.folder / "said.txt"
        said.write_text("")
        process = self.context.Process(target=victim, args=(self.folder, output, said))
        process.start()
        return process

    def _start(self, seconds: float, strike: bool) -> None:
        """Start the run and strike it, perhaps: one that has ended by then is not struck."""
        self.state["starts"] += 1
        chance = random.Random(f"{self.seed}.{self.state['starts']}")
        chosen = chance.choices(STRIKES, [strike.share for strike in STRIKES])[0]
        started = time.monotonic()
        run = Watched(
            lambda: self._process(self._output), work_directory(self._output), self._output
        )
        delay = chance.uniform(0, 1.1 * seconds)
        if chosen.moment == "writing":
            run.wait("", delay)
        if strike and run.wait(chosen.moment, delay):
            if chosen.moment:  # anywhere within it
                time.sleep(chance.uniform(0, 0.02))
            self._strike(run, chosen, chance)
        else:
            run.process.join()
            self._expect(run.process.exitcode == 0, "a run left alone", run)
            took = time.monotonic() - started
            self.state["seconds"] = min(took, self.state.get("seconds", took))

    def _strike(self, run: Watched, strike: Strike, chance: random.Random) -> None:
        children = descendants(run.process.pid)
        phase, struck = run.phase(), time.monotonic()
        if strike.kind == "full disk":
            self._fill(run)
        else:
            number = signal.SIGTERM if strike.kind == "terminate" else signal.SIGKILL
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.process.pid, number)
            run.process.join()
        status, took = run.process.exitcode, time.monotonic() - struck
        trains = {phase, run.phase()} <= {"training", "writing"}
        allowed = {
            "terminate": (0,) if trains else (0, -signal.SIGTERM),
            "full disk": (0, 2),
        }.get(strike.kind, (-signal.SIGKILL, 0))
        self._expect(status in allowed, f"{strike.kind} while {phase}", run)
        self._expect(gone(children), f"{strike.kind} while {phase}: a process left behind", run)
        said = (self.folder / "said.txt").read_text()
        told = sum(line.startswith("error: ") for line in said.splitlines())
        self._expect("Traceback" not in said and told == (status == 2), "what was said", run)
        torn = tear(run.work, chance) if strike.kind == "torn" else ""
        if status != 0 or strike.kind == "terminate":
            entry = {"kind": strike.kind, "phase": phase, "seconds": round(took, 3), "torn": torn}
            self.state["strikes"].append(entry)

    def _fill(self, run: Watched) -> None:
        """Leave no space until the run has ended."""
        ballast = self.disk / "ballast"
        if self.mounted:
            with ballast.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
                while stream.write(bytes(1 << 20)):
                    pass
        else:
            hard = resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (1 << 12, hard))
        run.process.join()
        ballast.unlink(missing_ok=True)

    def _expect(self, holds: bool, what: str, run: Watched) -> None:
        if not holds:
            said = (self.folder / "said.txt").read_text()[-2000:]
            status = run.process.exitcode
            self.state["faults"].append({"what": what, "status": status, "said": said})

    def _end_lap(self, expected: bytes) -> None:
        self.state["laps"] += 1
        if weights(self._output) != expected:
            self.state["different"] += 1
            return
        remove(self._output)
        remove(work_directory(self._output))

    def summary(self) -> dict[str, Any]:
        """Return what happened, by kind and phase."""
        strikes = self.state["strikes"]
        table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for strike in strikes:
            table[strike["kind"]][strike["phase"]] += 1
        grace = [s["seconds"] for s in strikes if s["kind"] == "terminate"]
        return {
            "strikes": len(strikes),
            "by_kind": {kind: dict(phases) for kind, phases in sorted(table.items())},
            "starts": self.state["starts"],
            "laps": self.state["laps"],
            "laps_with_other_weights": self.state["different"],
            "faults": self.state["faults"],
            "longest_grace_seconds": max(grace, default=0.0),
            "full_disk": "a file system filled" if self.mounted else "a limit on file sizes",
            "ok": not self.state["different"] and not self.state["faults"],
        }


def victim(folder: Path, output: Path | None, said: Path) -> None:
    """Distil as the command does, in a process of its own."""
    if output is None:
        return
    die_with(os.getppid(), signal.SIGKILL)
    with said.open("a") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    warnings.filterwarnings("ignore")
    try:
        distill(settings(folder, output))
    except BielikError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def settings(folder: Path, output: Path) -> DistillConfig:
    """Return the run's settings."""
    return DistillConfig(
        model=folder / "student",
        teacher=folder / "teacher",
        train_data=[folder / "tokens"],
        validation_data=folder / "tokens",
        output=output,
        iters=ITERS,
        sequence_length=32,
        global_batch_size=8,
        micro_batch_size=8,
        save_interval=SAVE_INTERVAL,
        eval_interval=ITERS // 2,
        eval_iters=1,
        optim=OptimConfig(max_lr=1e-3, min_lr=1e-4, warmup_iters=2),
    )


def prepare(folder: Path) -> None:
    """Write two random models and random documents; made once."""
    if (folder / "prepared").is_file():
        return
    for seed, (name, layers, hidden) in enumerate((("student", 3, 96), ("teacher", 4, 64))):
        remove(folder / name)
        (folder / name).mkdir(parents=True)
        arch = ModelArch(name=name, num_layers=layers, hidden_size=hidden, **SIZES)
        write_random(arch, seed, folder / name, {})
    tokens = folder / "tokens"
    remove(tokens)
    tokens.mkdir()
    generator = np.random.default_rng(1)
    with TokenWriter(tokens, token_dtype(SIZES["vocab_size"])) as writer:
        for length in generator.integers(5, 60, 300):
            document = [1, *generator.integers(3, SIZES["vocab_size"], length), 2]
            writer.add(np.array(document), np.array([len(document)], dtype=np.int32))
        writer.finish()
    results = {"end_of_document": 2}
    Manifest(stage="tokenize", config={}, results=results).save(tokens)
    (folder / "prepared").touch()


def tear(work: Path, chance: random.Random) -> str:
    """Cut a file of the newest sealed checkpoint short, or turn one of its bits; return which."""
    sealed = [path for path in work.glob("checkpoints/iter_*") if is_sealed(path)]
    if not sealed:
        return ""
    path = chance.choice(sorted(p for p in max(sealed).rglob("*") if p.is_file()))
    content = bytearray(path.read_bytes())
    if chance.random() < 0.5:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    return path.name


def mount(directory: Path) -> bool:
    """Mount a small file system, if that is allowed; return whether there is one."""
    size = f"size={DISK_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(directory)]
    if not directory.is_mount():
        with contextlib.suppress(OSError):
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)
    return directory.is_mount()


def descendants(pid: int) -> list[Any]:

    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def gone(processes: list[psutil.Process]) -> bool:

    return not psutil.wait_procs(processes, _GONE_WITHIN_SECONDS)[1]


def weights(output: Path) -> bytes:
    return (output / "model.safetensors").read_bytes()


def remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    """Run the campaign and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--kills", type=int, default=200, help="strikes that hit (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="decides the strikes (default: 1)")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/faults"), help="where the campaign lives"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    folder = options.folder.resolve()
    prepare(folder)
    campaign = Campaign(folder, options.seed)
    campaign.run(options.kills)
    if campaign.mounted and not campaign.state["faults"]:
        subprocess.run(["umount", str(campaign.disk)], check=False)
    summary = campaign.summary()
    print(json.dumps(summary, indent=2) if options.json else table(summary))
    return 0 if summary["ok"] else 1


def table(summary: dict[str, Any]) -> str:
    """Return the summary for people."""
    lines = [
        f"{kind:<11}{phase:<12}{count:>5}"
        for kind, phases in summary["by_kind"].items()
        for phase, count in sorted(phases.items())
    ]
    found = "the same bytes" if summary["ok"] else "NOT as it should be"
    lines.append(f"{summary['strikes']} strikes, {summary['laps']} laps: {found}")
    return "\n".join([*lines, *(json.dumps(fault) for fault in summary["faults"])])


if __name__ == "__main__":
    sys.exit(main())
