"""Suites that their own packages ask, programs of environments of their own, against an endpoint.

`bielik evaluate --endpoint … --suites bfcl euroeval` runs them where they are installed and reads
what they wrote. Both continue from what lies in their directory, so a run that was killed goes on.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.checkpoint import read_json
from nemo_bielik.errors import ServerError
from nemo_bielik.evaluate.suites.bfcl import BFCL, read_bfcl
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.euroeval import EUROEVAL, read_euroeval
from nemo_bielik.evaluate.suites.external import External
from nemo_bielik.stages import end_on_sigterm

if TYPE_CHECKING:
    from nemo_bielik.evaluate.config import EvaluateConfig

#: How each is installed; the versions are those whose files the readers know.
INSTALLED_BY = {
    BFCL: "uv tool install bfcl-eval==2026.3.23 --with soundfile",
    EUROEVAL: "uv tool install --python 3.12 euroeval==18.3.0",
}


def run_packages(config: "EvaluateConfig", work: Path) -> tuple[list[External], dict[str, str]]:
    """Return what the packages of `config.suites` found, and by name why one was not run.

    Raises `ServerError` if one fails; what it wrote stays in `work`, beside its log.
    """
    runners: dict[str, Callable[[EvaluateConfig, Path], External]] = {
        BFCL: _run_bfcl,
        EUROEVAL: _run_euroeval,
    }
    chosen = {suite.name for suite in find_suites(config.suites)}
    found, missing = [], {}
    for name, run in runners.items():
        if name not in chosen or getattr(config, name):
            continue
        if reason := _obstacle(config, name):
            missing[name] = reason
            continue
        (work / name).mkdir(exist_ok=True)
        found.append(run(config, work / name))
    return found, missing


def _obstacle(config: "EvaluateConfig", name: str) -> str:
    if config.endpoint is None:
        return f"its package asks an endpoint; give one, or its results as --{name}: docs/suites.md"
    if config.limit is not None:
        return "its package takes no limit"
    if shutil.which(name) is None:
        return f"its program {name} is not on the PATH; install it by `{INSTALLED_BY[name]}`"
    if name == BFCL:
        return _tokenizer_obstacle(config.tokenizer or config.model)
    return ""


def _tokenizer_obstacle(directory: Path | None) -> str:
    """Say why BFCL cannot read a tokenizer, or must not: it would run code that it brings."""
    if directory is None:
        return "its package forms prompts by the model's tokenizer; give its directory as tokenizer"
    for name in ("config.json", "tokenizer_config.json"):
        path = directory / name
        if not path.is_file():
            return f"{directory} has no {name}, which its package reads"
        if "auto_map" in read_json(path):
            return f"{path} names code of its own (auto_map), which its package would run"
    return ""


def _run_bfcl(config: "EvaluateConfig", root: Path) -> External:
    """Ask and score the report's categories and the others that are single turns.

    BFCL calls the served model by the path of its tokenizer: a link of the model's name stands for
    that directory.
    """
    assert config.endpoint is not None and config.endpoint_model is not None
    directory = config.tokenizer or config.model
    assert directory is not None
    link = root / config.endpoint_model
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(directory.resolve(), target_is_directory=True)
    common = ["--model", config.bfcl_model, "--test-category", "non_live,live"]
    served = ["--skip-server-setup", "--local-model-path", config.endpoint_model]
    environment = {
        "BFCL_PROJECT_ROOT": str(root.resolve()),
        "REMOTE_OPENAI_BASE_URL": config.endpoint,
        "REMOTE_OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY", "EMPTY"),
    }
    threads = ["--num-threads", str(config.concurrency)]
    _run(BFCL, ["bfcl", "generate", *common, *served, *threads], root, environment)
    _run(BFCL, ["bfcl", "evaluate", *common], root, environment)
    return read_bfcl(root, None)


def _run_euroeval(config: "EvaluateConfig", root: Path) -> External:
    assert config.endpoint is not None and config.endpoint_model is not None
    languages = [word for code in config.euroeval_languages for word in ("--language", code)]
    command = ["euroeval", "--model", config.endpoint_model, "--api-base", config.endpoint]
    _run(EUROEVAL, [*command, *languages], root, {})
    return read_euroeval(root / "euroeval_benchmark_results.jsonl", None)


def _run(name: str, command: Sequence[str], root: Path, environment: Mapping[str, str]) -> None:
    """Run a command in `root`, its output in a log beside it; raise `ServerError` if it fails."""
    log = root.with_name(f"{name}.log")
    print(f"{' '.join(command)}\n  its output: {log}", flush=True)
    with log.open("a", encoding="utf-8") as stream, end_on_sigterm():
        done = subprocess.run(
            command,
            cwd=root,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        last = (log.read_text(encoding="utf-8", errors="replace").strip() or "no word").splitlines()
        raise ServerError(
            f"{name} failed with status {done.returncode} ({last[-1].strip()[:200]}); its log is "
            f"{log}, what it wrote is kept and the same command continues"
        )
