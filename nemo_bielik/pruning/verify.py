"""The verify command: is a pruned model still exactly what its plan and its source give?"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.artifacts import EDIT_NAME, PLAN_NAME, PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.pruning.slice import planned_hashes

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
       was changed). A weight edit is not made again: its arithmetic may round differently on
       another machine.

    Raises `DataError` if `config.output` is no pruned model or its manifest holds no hashes.
    """
    manifest = Manifest.load(config.output)
    recorded = _recorded(config.output, manifest)
    changed = _changed_files(config.output, recorded)
    problems = list(changed.values())
    if not problems:
        print(f"{config.output}: all {len(recorded)} files are as they were written")
    problems += _source_problems(config, manifest, recorded, cut=PLAN_NAME not in changed)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _recorded(output: Path, manifest: Manifest) -> Mapping[str, str]:
    recorded = manifest.results.get("sha256")
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
    config: VerifyConfig, manifest: Manifest, recorded: Mapping[str, str], *, cut: bool
) -> list[str]:
    """Return one line if the source is another one or, `cut` again, gives other bytes."""
    directory = config.source or Path(manifest.config["model"])
    try:
        source = Checkpoint.open(directory)
        if source.fingerprint(fresh=True) != manifest.inputs["model"]:
            return [f"{directory}: is not the model that was pruned; give that one by --source"]
        print(f"{directory}: is the model that was pruned")
        if (config.output / EDIT_NAME).is_file():
            print(f"{config.output}: a weight edit; its weights are not made again to compare")
            return []
        if not cut:
            return []
        derived = planned_hashes(source, PruningPlan.load(config.output / PLAN_NAME))
    except BielikError as error:
        return [str(error)]
    wanted = {PLAN_NAME: recorded.get(PLAN_NAME), **derived}
    names = sorted(wanted.keys() | recorded.keys())
    wrong = [name for name in names if recorded.get(name) != wanted.get(name)]
    if wrong:
        shown = ", ".join(wrong[:_SHOWN_FILES]) + (", …" if len(wrong) > _SHOWN_FILES else "")
        return [f"{config.output}: {PLAN_NAME} and {directory} give another {shown}"]
    print(f"{config.output}: {PLAN_NAME} and {directory} give exactly what was recorded")
    return []
