"""The model of a model card: its architecture and how it was made, by its manifests.

A directory is believed only if its hash is the one that the evaluation, or the next stage's
manifest, names: a card never describes another model than the one that was evaluated.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, DataError
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.recovery.pairing import Stage
from nemo_bielik.report.costs import command_line

#: Settings that say what a stage did, in the order of a card's table.
_TOLD = (
    *("method", "num_layers", "hidden_size", "ffn_hidden_size", "sparsity", "pattern"),
    *("iters", "sequence_length", "global_batch_size", "precision"),
    *("teacher", "divergence", "temperature", "label_weight"),
)


@dataclass(frozen=True)
class Made:
    """One stage of a model's making."""

    stage: str
    settings: dict[str, Any]
    tokens: int | None
    seed: int | None
    commit: str
    command: str


@dataclass(frozen=True)
class CardModel:
    """What is known of the model that a card is for; `missing` says why something is not."""

    directory: Path | None = None
    arch: ModelArch | None = None
    teacher: ModelArch | None = None
    made: list[Made] = field(default_factory=list)
    missing: str = ""


def read_card_model(student: Stage, given: Path | None, teacher: Stage) -> CardModel:
    """Return what the directories of a student and its teacher say.

    `given` is the student's directory; without it, the one that its evaluation names. Raises
    `DataError` if `given` is not the model that was evaluated; of one that a server answered for
    there is no hash, and the card says that it was not checked.
    """
    evaluated = student.evaluations[0]
    wanted = evaluated.fingerprint
    if not wanted and given is None:
        return CardModel(
            missing=f"The model evaluated as {student.label} is {evaluated.model or 'not named'}, "
            "whose weights were not at hand, so its architecture and making are not told here; "
            "card_model names its directory."
        )
    if given is not None and Checkpoint.open(given).fingerprint() != wanted and wanted:
        raise DataError(
            f"{given}: is not the model that was evaluated as {student.label} (its hash is "
            f"another); give the directory with hash {wanted[:12]} as card_model"
        )
    directory = given or Path(evaluated.model)
    checkpoint = _checkpoint(directory, wanted) if wanted else Checkpoint.open(directory)
    if checkpoint is None:
        return CardModel(
            missing=f"The model evaluated as {student.label} was not found in {directory}, so its "
            "architecture and making are not told here."
        )
    origin = teacher.evaluations[0]
    source = _nearby(directory, origin.model, origin.fingerprint)
    made, missing = _chain(directory)
    if not wanted:
        unchecked = f"Not checked: that {evaluated.model} was made of {directory} (no hash)."
        missing = " ".join(filter(None, (unchecked, missing)))
    return CardModel(directory, checkpoint.arch, source.arch if source else None, made, missing)


def _checkpoint(directory: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint in `directory` if it is there and has this hash."""
    if not (directory / "config.json").is_file():
        return None
    try:
        found = Checkpoint.open(directory)
    except BielikError:
        return None
    return found if found.fingerprint() == fingerprint else None


def _nearby(directory: Path, named: object, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint called `named`, also where a run was moved as a whole."""
    if not named:
        return None
    for path in (Path(str(named)), directory.parent / Path(str(named)).name):
        if found := _checkpoint(path, fingerprint):
            return found
    return None


def _chain(directory: Path) -> tuple[list[Made], str]:
    """Return the stages that made a model, first to last, and what could not be followed."""
    made: list[Made] = []
    here: Path | None = directory
    while here is not None and (here / MANIFEST_NAME).is_file():
        manifest = Manifest.load(here)
        made.insert(0, _made(manifest))
        source, wanted = manifest.config.get("model"), str(manifest.inputs.get("model") or "")
        found = _nearby(here, source, wanted)
        if source and found is None:
            return made, f"What {manifest.stage} started from (hash {wanted[:12]}) was not found."
        here = found.directory if found else None
    return made, "" if made else f"{directory} holds no manifest, so its making is not told here."


def _made(manifest: Manifest) -> Made:
    tokens = manifest.results.get("tokens")
    config = dict(manifest.config)
    told = {name: config[name] for name in _TOLD if config.get(name) not in (None, "", 0, 0.0)}
    if rate := (config.get("optim") or {}).get("max_lr"):
        told["max_lr"] = rate
    return Made(
        manifest.stage,
        told,
        int(tokens) if isinstance(tokens, int | float) else None,
        manifest.seed,
        (manifest.git_commit or "")[:12],
        command_line(manifest.stage, config),
    )
