"""What a bench measures: its models with their names, shapes, places and tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.bench.config import BenchConfig
from nemo_bielik.bench.connection import Address
from nemo_bielik.bench.results import MODEL, STUDENT, TEACHER
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import BielikError, ConfigError
from nemo_bielik.planner.specs import resolve_arch

_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}  # as wide as bf16


@dataclass(frozen=True)
class Target:
    """One model to measure: its role, its name at the API, and where it is or will be served."""

    role: str
    name: str
    url: str | None
    directory: Path | None
    arch: ModelArch | None
    precision: str


def find_targets(config: BenchConfig) -> list[Target]:
    """Return the model, or teacher and student; raise `CheckpointError` for a damaged directory."""
    first = TEACHER if config.student else MODEL
    found = [_target(config, first, config.model, config.name, config.url)]
    if config.student is not None:
        url = config.student_url or config.url
        found.append(_target(config, STUDENT, config.student, config.student_name, url))
    return found


def _target(
    config: BenchConfig, role: str, model: str, name: str | None, url: str | None
) -> Target:
    if url is None:
        checkpoint = Checkpoint.open(Path(model))
        directory = checkpoint.directory.resolve()
        precision = config.precision or _stored_precision(checkpoint.config)
        return Target(role, name or str(directory), None, directory, checkpoint.arch, precision)
    Address.parse(url)
    try:
        arch: ModelArch | None = resolve_arch(model)
    except BielikError:
        arch = None  # only a name at the API: no shape, so no roofline
    return Target(role, name or model, url, None, arch, config.precision or "bf16")


def _stored_precision(config: dict[str, Any]) -> str:
    return _DTYPES.get(str(config.get("torch_dtype") or config.get("dtype")), "bf16")


def find_tokenizer(config: BenchConfig, targets: list[Target]) -> TextTokenizer | None:
    """Return what prompts are measured by: the given tokenizer, or the model directory's own."""
    directory = config.tokenizer or targets[0].directory
    if directory is None and (Path(config.model) / "tokenizer.json").is_file():
        directory = Path(config.model)
    return None if directory is None else TextTokenizer.open(directory)


def check_lengths(config: BenchConfig, targets: list[Target]) -> None:
    """Raise `ConfigError` if a model knows fewer positions than prompt and answer take."""
    longest = max(config.prompt_tokens) + max(config.output_tokens)
    for target in targets:
        positions = target.arch.max_position_embeddings if target.arch else longest
        if longest > positions:
            raise ConfigError(
                f"prompt_tokens and output_tokens reach {longest}; the {target.role} "
                f"{target.name} knows {positions} positions"
            )


def fingerprints(targets: list[Target]) -> dict[str, str]:
    """Return what each role measures: the hash of its directory, or its name at an API."""
    return {
        t.role: t.name if t.directory is None else Checkpoint.open(t.directory).fingerprint()
        for t in targets
    }
