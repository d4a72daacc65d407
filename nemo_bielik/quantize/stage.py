"""The quantising stage: a model in; a file of every format, and what each costs, out."""

import importlib.util
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik import stages
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import text_fingerprint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import atomic_file, explain_disk_errors, link_tree, require_space, write_json
from nemo_bielik.manifest import Manifest
from nemo_bielik.progress import progress
from nemo_bielik.quantize.formats import (
    REPORT_FORMATS,
    QuantizedFormat,
    find_format,
    find_formats,
)
from nemo_bielik.quantize.table import format_table, with_cards

if TYPE_CHECKING:
    from nemo_bielik.quantize.gguf_plan import FilePlan
    from nemo_bielik.quantize.llama_cpp import Importance

TABLE_NAME = "quantize.json"
#: Settings under which files that are there stay good.
_FREE_IN_A_CONTINUATION = ("formats", "all", "held_out", "measured_tokens", "max_loss", "context")


@dataclass(kw_only=True)
class QuantizeConfig:
    """Files of fewer bits a weight, and a table of what each costs."""

    model: Path = field(metadata={"help": "model directory with its tokenizer"})
    output: Path = field(metadata={"help": "directory to make"})
    formats: list[str] = field(
        default_factory=list, metadata={"help": "such as F16, BF16, Q8_0, Q6_K, Q4_K_M"}
    )
    all: bool = field(
        default=False, metadata={"help": f"the report's row: {', '.join(REPORT_FORMATS)}"}
    )
    texts: list[Path] = field(
        default_factory=list, metadata={"help": "calibration texts, for an importance matrix"}
    )
    calibration_tokens: int = field(default=16384, metadata={"help": "to take of them"})
    held_out: list[Path] = field(
        default_factory=list, metadata={"help": "texts to measure what each format costs on"}
    )
    measured_tokens: int = field(default=8192, metadata={"help": "to take of them"})
    sequence_length: int = field(default=512, metadata={"help": "tokens of a window of text"})
    max_loss: float | None = field(
        default=None,
        metadata={"help": "refuse a format that raises perplexity by more per cent than this"},
    )
    context: int = field(
        default=8192, metadata={"help": "tokens for which the table says which cards fit"}
    )
    threads: int = field(default=0, metadata={"help": "of llama.cpp; 0: all cores"})

    def __post_init__(self) -> None:
        for name in ("calibration_tokens", "measured_tokens", "sequence_length", "context"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 2")
        for name in ("calibration_tokens", "measured_tokens"):
            if getattr(self, name) < self.sequence_length:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least one window of "
                    f"sequence_length, {self.sequence_length}"
                )
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}; it must be 0 or more")
        if self.max_loss is not None and (self.max_loss < 0 or not self.held_out):
            raise ConfigError(
                f"max_loss is {self.max_loss}; it must be 0 or more, and needs held_out to measure "
                "the loss on"
            )
        for wanted in self.wanted:
            if wanted.needs_importance and not self.texts:
                raise ConfigError(f"{wanted.name} needs an importance matrix; give texts")

    @property
    def wanted(self) -> list[QuantizedFormat]:
        """The formats to make; raises `ConfigError` for none or an unknown one."""
        return find_formats([*self.formats, *(REPORT_FORMATS if self.all else ())])


@dataclass(frozen=True)
class _Texts:
    """Windows of token ids, read before anything is written; empty where no text is given."""

    calibration: list[list[int]]
    held_out: list[list[int]]

    @classmethod
    def read(cls, config: QuantizeConfig) -> "_Texts":
        """Return both; raise `DataError` for a text that is too short."""
        from nemo_bielik.data.text_windows import text_windows

        parts = (
            (config.texts, config.calibration_tokens),
            (config.held_out, config.measured_tokens),
        )
        return cls(
            *(
                text_windows(config.model, paths, config.sequence_length, tokens) if paths else []
                for paths, tokens in parts
            )
        )


def quantize(config: QuantizeConfig) -> None:
    """Write a file of every format and ``quantize.json`` as `config.output`.

    Raises `BielikError` for a model that llama.cpp does not know, texts that are too short, a full
    disk, and a format whose loss is above `config.max_loss`.
    """
    started = time.monotonic()
    source, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        print(f"{config.output}: already done")
        return
    from nemo_bielik.quantize.gguf_plan import plan_files

    texts = _Texts.read(config)
    plans = plan_files(source, config.wanted, bool(config.texts))
    base = _base(config, source)
    (base_plan,) = plan_files(source, [base])
    needed = {plan.wanted.name: plan.num_bytes for plan in [*plans, base_plan]}
    work = stages.work_directory(config.output)
    missing = {name for name in needed if not _file(work, config, name).is_file()}
    require_space(config.output, sum(needed[name] for name in missing))
    with explain_disk_errors(config.output):
        work.mkdir(parents=True, exist_ok=True)
    stages.claim_work(work, manifest, _FREE_IN_A_CONTINUATION)
    _make_files(config, source, work, [base, *config.wanted], texts)
    rows = _rows(config, source, work, plans, texts)
    results: dict[str, Any] = {"base": base.name, "formats": rows}
    _gate(config, rows)
    with stages.stage_output(config.output, manifest, results, started) as scratch:
        for plan in plans:
            file = _file(work, config, plan.wanted.name)
            link_tree(file, scratch / file.name)
        write_json(scratch / TABLE_NAME, results)
    shutil.rmtree(work)
    print(format_table(results, config.context))


def describe(config: QuantizeConfig) -> list[str]:
    """Return the lines that ``bielik quantize --dry-run`` adds: every file's size and types."""
    from nemo_bielik.quantize.gguf_plan import plan_files

    source, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        return [f"{config.output}: already done"]
    plans = plan_files(source, config.wanted, bool(config.texts))
    lines = [plan.line() for plan in plans]
    if config.texts:
        from nemo_bielik.quantize.importance import memory_bytes

        gigabytes = memory_bytes(source) / 1e9
        lines.append(f"the importance matrix loads the model: {gigabytes:.2f} GB of weights")
    return lines


def _prepare(config: QuantizeConfig) -> tuple[Checkpoint, Manifest]:
    for package in ("gguf", "cyllama"):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed; install nemo-bielik[gguf]")
    source = Checkpoint.open(config.model)
    inputs = {"model": source.fingerprint()}
    for role, paths in (("text", config.texts), ("held-out", config.held_out)):
        inputs |= {f"{role} {path}": text_fingerprint(path) for path in paths}
    return source, stages.describe("quantize", config, inputs)


def _base(config: QuantizeConfig, source: Checkpoint) -> QuantizedFormat:
    """Return the unquantised format that holds the model exactly: what the others are made of."""
    from nemo_bielik.quantize.gguf_tensors import native_type

    return find_format(native_type(source))


def _file(directory: Path, config: QuantizeConfig, name: str) -> Path:
    return directory / f"{config.model.resolve().name}-{name}.gguf"


def _make_files(
    config: QuantizeConfig,
    source: Checkpoint,
    work: Path,
    formats: list[QuantizedFormat],
    texts: _Texts,
) -> None:
    """Write what is not there yet; a file appears whole or not at all."""
    from nemo_bielik.quantize.importance import collect_importance

    importance: Importance | None = None
    for wanted in formats:
        path = _file(work, config, wanted.name)
        if path.is_file():
            continue
        if wanted.maker == "llama.cpp" and texts.calibration and importance is None:
            importance = collect_importance(source, texts.calibration)
        with atomic_file(path) as scratch:
            _write(config, source, wanted, work, scratch, importance)


def _write(
    config: QuantizeConfig,
    source: Checkpoint,
    wanted: QuantizedFormat,
    work: Path,
    scratch: Path,
    importance: "Importance | None",
) -> None:
    """Write one file, with a progress bar."""
    from nemo_bielik.quantize.gguf_file import write_gguf
    from nemo_bielik.quantize.gguf_tensors import gguf_tensors
    from nemo_bielik.quantize.llama_cpp import quantize_file

    name = config.model.resolve().name
    if wanted.maker == "gguf":
        total = sum(tensor.num_bytes for tensor in gguf_tensors(source, wanted.name))
        with progress(total=total, unit="B", unit_scale=True, desc=wanted.name) as bar:
            write_gguf(source, wanted.name, scratch, bar.update, name)
        return
    base = _base(config, source)
    count = len(gguf_tensors(source, base.name))
    with progress(total=count, unit="tensor", desc=wanted.name) as bar:
        quantize_file(
            _file(work, config, base.name), scratch, wanted, importance, config.threads, bar.update
        )


def _rows(
    config: QuantizeConfig,
    source: Checkpoint,
    work: Path,
    plans: "list[FilePlan]",
    texts: _Texts,
) -> list[dict[str, Any]]:
    """Return the table: what each file is, which cards it fits, and what it costs."""
    from nemo_bielik.quantize.gguf_plan import read_file

    rows = []
    for plan in plans:
        file = _file(work, config, plan.wanted.name)
        row = {"file": file.name, **read_file(file, plan.wanted).figures()}
        rows.append(with_cards(row, source.arch, config.context))
    if not texts.held_out:
        return rows
    from nemo_bielik.quantize.measure import compare_files

    files = {row["format"]: work / row["file"] for row in rows}
    base = _file(work, config, _base(config, source).name)
    found = compare_files(base, files, texts.held_out, config.threads)
    for row in rows:
        row |= found[row["format"]]
        row["loss_percent"] = 100 * (row["perplexity"] / found["base"]["perplexity"] - 1)
    return rows


def _gate(config: QuantizeConfig, rows: list[dict[str, Any]]) -> None:
    """Raise `DataError` naming the formats that cost too much; nothing appears then."""
    if config.max_loss is None:
        return
    bad = {row["format"]: row["loss_percent"] for row in rows}
    bad = {name: loss for name, loss in bad.items() if not loss <= config.max_loss}
    if bad:
        named = ", ".join(f"{name} by {loss:.2f} %" for name, loss in bad.items())
        raise DataError(
            f"{config.output}: perplexity rises with {named}, more than max_loss="
            f"{config.max_loss:g}; leave these formats out, give texts for an importance matrix, "
            "or allow more"
        )
