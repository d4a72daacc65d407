"""``bielik launch init`` and ``bielik launch check``: a site file, and what its sites lack."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.doctor import Check, format_checks
from nemo_bielik.errors import BielikError, ConfigError, StorageError, nearest
from nemo_bielik.launch.lepton_site import LeptonSite
from nemo_bielik.launch.site import LocalSite, NemoRunSite, Site
from nemo_bielik.launch.site_file import LOCAL_FILE, USER_FILE, load_sites, site_file
from nemo_bielik.launch.slurm_site import SlurmSite

_TEMPLATE = Path(__file__).with_name("template.toml")
_ANSWER_SECONDS = 30


@dataclass(kw_only=True)
class InitConfig:
    """Write a commented site file; one that exists is left alone."""

    output: Path = field(default=USER_FILE, metadata={"help": f"where to; or ./{LOCAL_FILE}"})


@dataclass(kw_only=True)
class CheckConfig:
    """Read the site file and ask its sites; exit status 1 if one cannot be launched on."""

    name: str = field(default="", metadata={"help": "one site; none: all", "positional": True})
    site: Path | None = field(
        default=None, metadata={"help": f"site file; default: ./{LOCAL_FILE} or {USER_FILE}"}
    )


def write_template(config: InitConfig) -> None:
    """Write the template to `config.output`; raise `StorageError` if something is there."""
    output = config.output.expanduser()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("x", encoding="utf-8") as stream:
            stream.write(_TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError as error:
        if Path(error.filename) != output:
            raise StorageError(f"{output}: {error.filename} is not a directory") from None
        raise StorageError(f"{output}: exists; edit it, or write another with --output") from None
    except OSError as error:
        raise StorageError(f"{output}: cannot be written ({error.strerror})") from None
    print(f"{output}: fill in a site, then run `bielik launch check`")


def check_sites(config: CheckConfig) -> int:
    """Print what every site has and lacks, and return 1 if one lacks something."""
    sites = load_sites(config.site)
    if config.name and config.name not in sites:
        raise ConfigError(f"unknown site {config.name!r}{nearest(config.name, sites)}")
    print(f"site file: {site_file(config.site) or 'none; `bielik launch init` writes one'}")
    chosen = {config.name: sites[config.name]} if config.name else sites
    checks = [check for name, site in chosen.items() for check in _checks(name, site)]
    print(format_checks(checks))
    return int(any(check.status == "lack" for check in checks))


def _checks(name: str, site: Site) -> Iterator[Check]:
    if isinstance(site, LocalSite):
        yield _directory(f"{name}: job_directory", site.job_directory)
        yield _program(f"{name}: python", site.python or sys.executable)
        if site.ranks == "torchrun":
            yield _program(f"{name}: torchrun", str(Path(sys.executable).with_name("torchrun")))
        if site.profile:
            yield _program(f"{name}: nsys", "nsys")
        if site.fault_tolerance is not None:
            package = "nvidia_resiliency_ext"
            advice = "install nvidia-resiliency-ext, or nemo-bielik[engine]"
            there = importlib.util.find_spec(package) is not None
            yield _finding(f"{name}: fault_tolerance", there, package, advice)
    elif isinstance(site, SlurmSite):
        yield from _slurm(name, site)
    elif isinstance(site, LeptonSite):
        yield from _lepton(name, site)
    elif isinstance(site, NemoRunSite):
        yield _nemo_run(name, site)


def _finding(name: str, holds: bool, found: str, advice: str) -> Check:
    return Check(name, "ok", found) if holds else Check(name, "lack", found, advice)


def _directory(name: str, given: Path) -> Check:
    place = given.expanduser().absolute()
    existing = next(parent for parent in (place, *place.parents) if parent.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    advice = f"{existing} is not a directory that you may write to"
    return _finding(name, writable, str(place), advice)


def _program(name: str, program: str) -> Check:
    found = shutil.which(program)
    return _finding(name, found is not None, found or program, "not found here")


def _slurm(name: str, site: SlurmSite) -> Iterator[Check]:
    if site.ssh is not None:
        yield from (_program(f"{name}: {tool}", tool) for tool in ("ssh", "rsync"))
        answer = _ask(site, "true")
        place = f"{site.ssh.user}@{site.ssh.host}:{site.ssh.port}"
        advice = f"{_last_line(answer)}; log in once by hand, so that the host's key is known"
        yield _finding(f"{name}: login", not answer.returncode, place, advice)
        if answer.returncode:
            return
    programs = ["sbatch", "squeue", "scancel"]
    programs += ["rsync"] if site.ssh else []  # NeMo-Run copies a job's files with it
    programs += [] if site.container else [site.python]
    for program in programs:
        found = _ask(site, f"command -v {shlex.quote(program)}")
        advice = "not found there; is it the login node, is the path right?"
        path = found.stdout.strip() or "absent"
        yield _finding(f"{name}: {program}", not found.returncode, path, advice)
    place = shlex.quote(str(site.job_directory))
    made = _ask(site, f"mkdir -p {place} && test -w {place}")
    advice = "cannot be made or written there"
    yield _finding(f"{name}: job_directory", not made.returncode, place, advice)
    yield _test_job(name, site)
    for stage, own in site.stages.items():
        assert isinstance(own, SlurmSite)
        yield _test_job(f"{name}: {stage}", own)
    if site.container:
        pyxis = _ask(site, "srun --help | grep -q container-image")
        advice = "srun has no --container-image: ask for the pyxis plugin, or remove [container]"
        yield _finding(f"{name}: pyxis", not pyxis.returncode, "srun --container-image", advice)


def _test_job(name: str, site: SlurmSite) -> Check:
    """Ask the controller whether it would take a job of one node: account, partition, limits."""
    options = {"account": site.account, "partition": site.partition, "qos": site.qos}
    options |= {"time": site.time, "gres": site.gres}
    options |= {"gpus-per-node": str(site.gpus_per_node or "")}
    options |= {key.replace("_", "-"): str(value) for key, value in site.sbatch.items()}
    words = [f"--{key}={value}" for key, value in options.items() if value not in ("", "True")]
    words += [f"--{key}" for key, value in options.items() if value == "True"]
    asked = shlex.join(["sbatch", "--test-only", "--nodes=1", *words, "--wrap=true"])
    answer = _ask(site, asked)
    return _finding(f"{name}: test job", not answer.returncode, _last_line(answer), f"{asked}")


def _ask(site: SlurmSite, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell command where jobs are submitted."""
    words = ["bash", "-c", command]
    if site.ssh is not None:
        ssh = site.ssh
        identity = ["-i", str(ssh.identity.expanduser())] if ssh.identity else []
        # as NeMo-Run's rsync does it, but without a question that nobody would answer
        words = ["ssh", "-o", "BatchMode=yes", "-p", str(ssh.port), *identity]
        words += [f"{ssh.user}@{ssh.host}", command]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_ANSWER_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 255, "", str(error))


def _last_line(answer: "subprocess.CompletedProcess[str]") -> str:
    lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
    return lines[-1] if lines else f"no answer (status {answer.returncode})"


def _lepton(name: str, site: LeptonSite) -> Iterator[Check]:
    from leptonai.api.v2.client import APIClient

    try:
        client = APIClient()
        groups = [group.metadata.name for group in client.nodegroup.list_all()]
        secrets = {getattr(item, "name", item) for item in client.secret.list_all()}
    except Exception as error:  # every mishap of HTTP, of the credentials, of the answer
        advice = "log in with `lep login`, or set LEPTON_WORKSPACE_ID and LEPTON_WORKSPACE_TOKEN"
        yield Check(f"{name}: workspace", "lack", str(error).strip().split("\n")[0], advice)
        return
    yield Check(f"{name}: workspace", "ok", str(client.workspace_id))
    hint = f"the workspace has {', '.join(map(str, groups)) or 'none'}"
    yield _finding(f"{name}: node_group", site.node_group in groups, site.node_group, hint)
    for variable, secret in site.secrets.items():
        advice = "the workspace has no secret of that name"
        yield _finding(f"{name}: secrets.{variable}", secret in secrets, secret, advice)


def _nemo_run(name: str, site: NemoRunSite) -> Check:
    from nemo_bielik.launch.others import make_executor

    try:
        make_executor(site, {}, None)
    except BielikError as error:
        return Check(f"{name}: executor", "lack", site.executor, str(error))
    return Check(f"{name}: executor", "ok", site.executor)
