"""The quantising stage: a model in; every format, and a table of what each costs, out."""

import dataclasses
import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nemo_bielik import stages
from nemo_bielik.artifact_files import load_json, save_json
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import text_fingerprint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import explain_disk_errors, link_tree, require_space, write_json
from nemo_bielik.manifest import Manifest
from nemo_bielik.quantize.config import QuantizeConfig
from nemo_bielik.quantize.memory import Memory, require_memory
from nemo_bielik.quantize.table import format_table

if TYPE_CHECKING:
    from nemo_bielik.quantize.inputs import Inputs

TABLE_NAME = "quantize.json"
#: Settings under which what is there stays good.
_FREE_IN_A_CONTINUATION = (
    "formats",
    "all",
    "held_out",
    "measured_tokens",
    "minimal_pairs",
    "facts",
    "max_loss",
    "context",
    "threads",
)
_HELD_OUT = "held-out"


class Files(Protocol):
    """The formats of one kind: those for llama.cpp, or those for servers."""

    @property
    def engine(self) -> str:
        """What runs the unquantised model that they are held against."""

    def sizes(self, work: Path) -> dict[Path, int]:
        """Return the bytes of everything to make."""

    def needs(self, work: Path) -> list[Memory]:
        """Return the memory of the steps that load the model."""

    def lines(self) -> list[str]:
        """Return the lines of a dry run."""

    def make(self, work: Path, inputs: "Inputs") -> None:
        """Write what is not there yet."""

    def rows(self, work: Path, inputs: "Inputs") -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the rows of the table, and the unquantised model's figures."""


def quantize(config: QuantizeConfig) -> None:
    """Write every format and ``quantize.json`` as `config.output`.

    Raises `BielikError` for a model that llama.cpp does not know, layers or texts that do not fit,
    too little memory, a full disk, and a format whose loss is above `config.max_loss`.
    """
    started = time.monotonic()
    source, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        print(f"{config.output}: already done")
        return
    from nemo_bielik.quantize.inputs import Inputs

    kinds = _kinds(config, source)
    inputs = Inputs.read(config, source)
    work = stages.work_directory(config.output)
    sizes = {path: size for kind in kinds for path, size in kind.sizes(work).items()}
    require_space(config.output, sum(size for path, size in sizes.items() if not path.exists()))
    require_memory([need for kind in kinds for need in kind.needs(work)])
    with explain_disk_errors(config.output):
        work.mkdir(parents=True, exist_ok=True)
    stages.claim_work(work, _of_the_files(manifest), _FREE_IN_A_CONTINUATION)
    for kind in kinds:
        kind.make(work, inputs)
    results = _measured(work, manifest, lambda: _table(config, source, kinds, work, inputs))
    print(format_table(results))
    _gate(config, results["formats"])
    with stages.stage_output(config.output, manifest, results, started) as scratch:
        for row in results["formats"]:
            link_tree(work / row["file"], scratch / row["file"])
            if (scratch / row["file"]).is_dir():  # it may be served far from the table
                dataclasses.replace(manifest, results=row).save(scratch / row["file"])
        write_json(scratch / TABLE_NAME, results)
    shutil.rmtree(work)


def describe(config: QuantizeConfig) -> list[str]:
    """Return the lines that ``bielik quantize --dry-run`` adds: sizes, types, layers, memory."""
    source, manifest = _prepare(config)
    if stages.is_done(config.output, manifest):
        return [f"{config.output}: already done"]
    from nemo_bielik.quantize.inputs import Inputs

    Inputs.read(config, source)
    work = stages.work_directory(config.output)
    kinds = _kinds(config, source)
    lines = [line for kind in kinds for line in kind.lines()]
    return lines + [need.line() for kind in kinds for need in kind.needs(work)]


def _prepare(config: QuantizeConfig) -> tuple[Checkpoint, Manifest]:
    packages = {"gguf": "gguf", "cyllama": "gguf"} if config.gguf_formats else {}
    packages |= {"modelopt": "engine"} if config.server_formats else {}
    for package, extra in packages.items():
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{package} is not installed; install nemo-bielik[{extra}]")
    source = Checkpoint.open(config.model)
    inputs = {"model": source.fingerprint()}
    judged = [path for path in (config.minimal_pairs, config.facts) if path]
    for role, paths in (("text", config.texts), (_HELD_OUT, [*config.held_out, *judged])):
        inputs |= {f"{role} {path}": text_fingerprint(path) for path in paths}
    return source, stages.describe("quantize", config, inputs)


def _of_the_files(manifest: Manifest) -> Manifest:
    """Return `manifest` without what the files do not follow from: text they are measured on."""
    inputs = {role: one for role, one in manifest.inputs.items() if not role.startswith(_HELD_OUT)}
    return dataclasses.replace(manifest, inputs=inputs)


def _measured(
    work: Path, manifest: Manifest, measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Return the table: that of `work`, if the recipe is its own but for the limit of the loss."""
    settings = {name: value for name, value in manifest.config.items() if name != "max_loss"}
    recipe = dataclasses.replace(manifest, config=settings).recipe()
    path = work / TABLE_NAME
    if path.is_file():
        found: dict[str, Any] = load_json(path, "table of formats")
        if found.pop("recipe", "") == recipe:
            return found
    results = measure()
    save_json(path, {"recipe": recipe, **results})
    return results


def _kinds(config: QuantizeConfig, source: Checkpoint) -> list[Files]:
    kinds: list[Files] = []
    if config.gguf_formats:
        from nemo_bielik.quantize.gguf_files import GgufFiles

        kinds.append(GgufFiles(config, source))
    if config.server_formats:
        from nemo_bielik.quantize.server_files import ServerFiles

        kinds.append(ServerFiles(config, source))
    return kinds


def _table(
    config: QuantizeConfig,
    source: Checkpoint,
    kinds: Sequence[Files],
    work: Path,
    inputs: "Inputs",
) -> dict[str, Any]:
    """Return what each format is, which cards it fits, and what it costs."""
    rows, references = [], {}
    for kind in kinds:
        own, reference = kind.rows(work, inputs)
        if reference:
            references[kind.engine] = reference
        if config.held_out:
            for row in own:
                row["loss_percent"] = 100 * (row["perplexity"] / reference["perplexity"] - 1)
        rows += own
    order = [one.name for one in config.wanted]
    return {
        "model": {"name": config.model.resolve().name, "fingerprint": source.fingerprint()},
        "context": config.context_of(source.arch),
        "unquantised": references,
        "formats": sorted(rows, key=lambda row: order.index(row["format"])),
    }


def _gate(config: QuantizeConfig, rows: list[dict[str, Any]]) -> None:
    """Raise `DataError` naming the formats that cost too much; nothing appears then."""
    if config.max_loss is None:
        return
    bad = {row["format"]: row["loss_percent"] for row in rows}
    bad = {name: loss for name, loss in bad.items() if not loss <= config.max_loss}
    if not bad:
        return
    named = ", ".join(f"{name} by {loss:.2f} %" for name, loss in bad.items())
    remedies = ["leave these formats out"]
    if any(one.name in bad for one in config.server_formats):
        remedies.append("keep layers of the servers' formats in high precision (keep)")
    if not config.texts:
        remedies.append("give texts for an importance matrix")
    raise DataError(
        f"{config.output}: perplexity rises with {named}, more than max_loss={config.max_loss:g}; "
        f"{', '.join(remedies)}, or allow more: what is made and measured stays for the next call"
    )
