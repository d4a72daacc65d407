"""The verify command: is a pruned model still exactly what its plan and its source give?"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.artifacts import EDIT_NAME, PLAN_NAME, PruningPlan, WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.pruning.edit_checks import check_weights
from nemo_bielik.pruning.methods import STATISTICS, find_method, resolve
from nemo_bielik.pruning.plan_checks import check_edit
from nemo_bielik.pruning.slice import edited_hashes, planned_hashes

if TYPE_CHECKING:
    from nemo_bielik.pruning.change import Editor

_SHOWN_FILES = 3


@dataclass(kw_only=True)
class VerifyConfig:
    """Which output to check, and against what it was cut from."""

    output: Path = field(
        metadata={"help": "model directory made by `bielik prune`", "positional": True}
    )
    source: Path | None = field(
        default=None, metadata={"help": "model it was cut from, if it lies elsewhere by now"}
    )


def verify(config: VerifyConfig) -> int:
    """Print what was checked, one line a problem; return 0 if there is none, else 1.

    1. Every file is there, no other is, and each has the SHA-256 that its manifest records.
    2. The source has the fingerprint that the manifest records; all of it is read, nothing is
       taken from `hash_cache`.
    3. Plan and source, cut again into a hash, give the recorded bytes (left out if the plan itself
       was changed). So do a weight edit and its source, of magnitude always and of Wanda if its
       scores are still where they were; SparseGPT's arithmetic may round differently on another
       machine and is not repeated.
    4. Of a weight edit, the weights are those of the source but for the zeros, which are as many
       and where the edit and the manifest say (`edit_checks.check_weights`).

    Raises `DataError` if `config.output` is no pruned model or its manifest holds no hashes.
    """
    manifest = Manifest.load(config.output)
    recorded = _recorded(config.output, manifest)
    changed = _changed_files(config.output, recorded)
    problems = list(changed.values())
    if not problems:
        print(f"{config.output}: all {len(recorded)} files are as they were written")
    problems += _source_problems(config, manifest, changed)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _recorded(output: Path, manifest: Manifest) -> Mapping[str, str]:
    results = manifest.results
    recorded = results.get("sha256") if isinstance(results, Mapping) else None
    if manifest.stage != "prune" or not isinstance(recorded, Mapping):
        raise DataError(
            f"{output / MANIFEST_NAME}: records no hashes of a pruned model (stage "
            f"{manifest.stage!r}); `bielik verify` checks what `bielik prune` of this release made"
        )
    return recorded


def _changed_files(output: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Return one line for every file that is missing, changed or did not belong to the output."""
    found = {str(path.relative_to(output)): path for path in output.rglob("*") if not path.is_dir()}
    found.pop(MANIFEST_NAME, None)
    there = sorted(found.keys() & recorded.keys())
    with ThreadPoolExecutor() as pool:
        hashes = list(pool.map(file_sha256, [found[name] for name in there]))
    lines = dict.fromkeys(recorded.keys() - found.keys(), "is missing")
    lines |= dict.fromkeys(found.keys() - recorded.keys(), "is not of the prune stage")
    for name, digest in zip(there, hashes, strict=True):
        if digest != recorded[name]:
            lines[name] = f"was changed: SHA-256 {digest}, recorded {recorded[name]}"
    return {name: f"{output / name}: {line}" for name, line in sorted(lines.items())}


def _source_problems(
    config: VerifyConfig, manifest: Manifest, changed: Mapping[str, str]
) -> list[str]:
    """Return one line if the source is another one or, cut again, gives other bytes."""
    try:
        source = _source(config, manifest)
        if source.fingerprint(fresh=True) != manifest.inputs.get("model"):
            return [f"{source.directory}: is not the model that was pruned; give that by --source"]
        print(f"{source.directory}: is the model that was pruned")
        if EDIT_NAME in _recorded(config.output, manifest):
            return _edit_problems(config.output, manifest, source, changed)
        if PLAN_NAME in changed:
            return []
        derived = planned_hashes(source, PruningPlan.load(config.output / PLAN_NAME))
        return _other_bytes(config.output, manifest, source, PLAN_NAME, derived)
    except BielikError as error:
        return [str(error)]


def _source(config: VerifyConfig, manifest: Manifest) -> Checkpoint:
    """Open the source; raise `DataError` or `CheckpointError` if it is not there."""
    if config.source is not None:
        return Checkpoint.open(config.source)
    named = manifest.config.get("model")
    if not isinstance(named, str):
        raise DataError(
            f"{config.output / MANIFEST_NAME}: does not name the model that was pruned; give it "
            "by --source"
        )
    if not Path(named).is_dir():
        raise DataError(f"{named}: no such model directory; give it by --source")
    return Checkpoint.open(Path(named))


def _edit_problems(
    output: Path, manifest: Manifest, source: Checkpoint, changed: Mapping[str, str]
) -> list[str]:
    """Return one line if the weights are not what a weight edit makes of `source`.

    Weights are compared if all files are as recorded; if not, that was said already.
    """
    if EDIT_NAME in changed:
        return []
    edit = WeightEdit.load(output / EDIT_NAME)
    check_edit(edit, source)
    if not changed:
        zeros = check_weights(source, Checkpoint.open(output), edit)
        if zeros != manifest.results.get("zeros"):
            return [
                f"{output}: {zeros} weights of the projections are zero, but its manifest records "
                f"{manifest.results.get('zeros')}"
            ]
        print(f"{output}: {_held(edit, zeros)}")
    editor = _editor(manifest, source, edit)
    if editor is None:
        return []
    derived = edited_hashes(source, edit, editor)
    return _other_bytes(output, manifest, source, EDIT_NAME, derived)


def _held(edit: WeightEdit, zeros: int) -> str:
    """Return what `check_weights` found to hold."""
    asked = edit.pattern or f"a share of {edit.sparsity:g}"
    if edit.method == "sparsegpt":
        return (
            f"its {zeros:,} zeros are what {asked} calls for, and what sparsegpt does not edit is "
            "the source's; the weights that it adjusted are not made again to compare"
        )
    return f"its {zeros:,} zeros are what {asked} calls for, and every other weight is the source's"


def _editor(manifest: Manifest, source: Checkpoint, edit: WeightEdit) -> "Editor | None":
    """Return what makes the edit again, to the bit; None, having said so, if nothing does."""
    method, scores = find_method(edit.method), None
    if method.name == "sparsegpt":
        return None
    if method.statistics:
        scores = Path(str(manifest.config.get("scores")))
        statistics = scores / STATISTICS[method.statistics].file
        if not statistics.is_file() or file_sha256(statistics) != edit.scores:
            print(f"{statistics}: is gone or another by now; the edit is not made again to compare")
            return None
    editor: Editor = resolve(method.function)(source, scores, edit)
    return editor


def _other_bytes(
    output: Path, manifest: Manifest, source: Checkpoint, change: str, derived: Mapping[str, str]
) -> list[str]:
    """Return one line if the file `change` and `source` give other hashes than recorded."""
    recorded = _recorded(output, manifest)
    wanted = {change: recorded.get(change), **derived}
    names = sorted(wanted.keys() | recorded.keys())
    wrong = [name for name in names if recorded.get(name) != wanted.get(name)]
    if wrong:
        shown = ", ".join(wrong[:_SHOWN_FILES]) + (", …" if len(wrong) > _SHOWN_FILES else "")
        return [f"{output}: {change} and {source.directory} give another {shown}"]
    print(f"{output}: {change} and {source.directory} give exactly what was recorded")
    return []
