"""``bielik doctor``: what this machine has, what it lacks, and what that means.

Every check is a function that returns `Check`s; a lack says in one line how to mend it or why it
does not matter. Packages are compared with the pins of this package's own metadata, unimported.
"""

import importlib.metadata as metadata
import importlib.util
import json as json_format
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

DISTRIBUTION = "nemo-bielik"
MEMORY_GIB = 6
DISK_GIB = 5
_GIB = 2**30
_MARKS = {"ok": "ok", "note": "-", "warning": "!", "lack": "LACKS"}


@dataclass(kw_only=True)
class DoctorConfig:
    """What this machine has and lacks; exit status 1 if the chain cannot run here."""

    json: bool = field(default=False, metadata={"help": "print one JSON object instead"})
    output: Path = field(default=Path("."), metadata={"help": "where runs will be written"})


@dataclass(frozen=True)
class Check:
    """One finding: ``lack`` stops the chain, ``warning`` may, ``note`` does not matter here."""

    name: str
    status: Literal["ok", "note", "warning", "lack"]
    found: str
    advice: str = ""


def run_doctor(config: DoctorConfig) -> int:
    """Print every check and return 0 if the laptop chain can run, 1 if not."""
    checks = examine(config.output)
    ok = all(check.status != "lack" for check in checks)
    if config.json:
        print(json_format.dumps({"ok": ok, "checks": [asdict(c) for c in checks]}, indent=2))
    else:
        print(format_checks(checks))
        print(
            "\nThe chain can run here." if ok else "\nThe chain cannot run here: mend what LACKS."
        )
    return 0 if ok else 1


def examine(output: Path) -> list[Check]:
    """Run every check of this machine."""
    return [
        check_python(),
        check_cores(),
        check_memory(),
        check_disk(output),
        *check_packages(),
        *check_optional_kernels(),
        check_runtime(),
        *check_tools(),
    ]


def format_checks(checks: list[Check]) -> str:
    """Return the checks as aligned lines, each advice under its finding."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{_MARKS[check.status]:<6}{check.name:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"{'':<6}{'':<{width}}  → {check.advice}")
    return "\n".join(lines)


def check_python() -> Check:
    """Python 3.12 is what the pinned versions were resolved for."""
    found = platform.python_version()
    if found.startswith("3.12."):
        return Check("Python", "ok", found)
    return Check("Python", "lack", found, "needs 3.12; 'make env' finds or downloads it")


def check_cores() -> Check:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (cores or 1) >= 2:
        return Check("cores", "ok", str(cores))
    return Check("cores", "warning", "1", "works, but the demo takes about twice as long")


def check_memory() -> Check:
    """Memory of the machine, or of its container if that is less."""
    total = memory_bytes() / _GIB
    found = f"{total:.1f} GiB"
    if total >= MEMORY_GIB:
        return Check("memory", "ok", found)
    advice = f"the demo may use {MEMORY_GIB} GiB; close other programs or add swap"
    return Check("memory", "warning", found, advice)


def check_disk(output: Path) -> Check:
    """Free disk space where runs are written."""
    place = next(p for p in (output.resolve(), *output.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free / _GIB
    found = f"{free:.1f} GiB free at {place}"
    if free >= DISK_GIB:
        return Check("disk", "ok", found)
    advice = f"the demo needs up to {DISK_GIB} GiB; free some or choose another --output"
    return Check("disk", "lack" if free < 1 else "warning", found, advice)


def check_packages() -> Iterator[Check]:
    """Every package of the stack: installed version against the pinned one."""
    for requirement in pinned_requirements():
        wanted = str(requirement.specifier) or "any version"
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            advice = f"needs {wanted}; run 'make env' (on a cluster: use NVIDIA's container)"
            yield Check(requirement.name, "lack", "not installed", advice)
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Check(requirement.name, "ok", installed)
        else:
            advice = f"tested with {wanted}; 'make env' restores it"
            yield Check(requirement.name, "warning", installed, advice)


def pinned_requirements() -> list[Requirement]:
    """Return what this package's metadata asks for, engine included, for this machine."""
    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(line) for line in lines]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": "engine"})]


def check_optional_kernels() -> Iterator[Check]:
    """Transformer Engine and Apex: fast kernels that only a CUDA machine can build."""
    for name, module in (("Transformer Engine", "transformer_engine"), ("Apex", "apex")):
        if importlib.util.find_spec(module) is not None:
            yield Check(name, "ok", "installed")
        else:
            advice = (
                "not needed: Megatron's local layers (plain PyTorch) are used instead; "
                "for speed on GPUs use NVIDIA's container, which has it"
            )
            yield Check(name, "note", "absent", advice)


def check_runtime() -> Check:
    """Whether runs use GPUs (NCCL) or the CPU runtime (gloo)."""
    try:
        import torch
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        return Check("runtime", "lack", f"torch cannot be imported ({reason})", "run 'make env'")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("runtime", "ok", f"{len(names)} GPU(s), NCCL: {', '.join(sorted(set(names)))}")
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        advice = "this build of torch has no gloo; 'make env' installs one that has"
        return Check("runtime", "lack", "no GPU and no gloo", advice)
    advice = "the whole chain runs on the CPU runtime (gloo), for small models; larger need GPUs"
    return Check("runtime", "note", "no GPU", advice)


def check_tools() -> Iterator[Check]:
    """Programs outside Python."""
    tools = {
        "uv": ("uv", "'make env' brings its own into .uv"),
        "git": ("git", "manifests will lack the commit; nothing else needs it"),
        "Slurm": ("sbatch", "only launching on a Slurm cluster needs it"),
    }
    for name, (program, advice) in tools.items():
        path = shutil.which(program)
        if path is None and program == "uv" and Path(".uv/bin/uv").exists():
            path = ".uv/bin/uv"
        yield Check(name, "ok", path) if path else Check(name, "note", "absent", advice)


def memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total
