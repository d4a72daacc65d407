"""What a run directory holds, read into values; what is absent is None or empty."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PLAN_NAME, SCORES_NAME, PruningPlan, ScoreTable
from nemo_bielik.checkpoint import read_config
from nemo_bielik.errors import DataError
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED, TEACHER, Run

KINDS = (TEACHER, PRUNED, DISTILLED, LABEL_TRAINED, FROM_SCRATCH)
CONTROLS = (LABEL_TRAINED, FROM_SCRATCH)
WAYS_BACK = (DISTILLED, *CONTROLS)
_MODEL_NAME = re.compile(rf"({'|'.join(KINDS)})(?:-seed(\d+))?")
_METRICS = Path("training") / "metrics.jsonl"
_RESULTS = "results.json"
#: The order in which the directories of a run are made.
_CHAIN = ("world", "tokenizer", "tokens", "models/teacher", "scores", "models", "evaluations")


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """One model of the run: what it is, how its training went and how it was judged."""

    name: str
    kind: str
    seed: int | None
    arch: ModelArch | None
    num_bytes: int | None
    manifest: Manifest | None
    metrics: list[dict[str, Any]]
    results: dict[str, Any]


@dataclass(frozen=True)
class StageRun:
    """One output directory with its manifest; `name` is its path inside the run."""

    name: str
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class RunData:
    """Everything that the page is computed from."""

    root: Path
    models: tuple[ModelRun, ...]
    plan: PruningPlan | None
    scores: ScoreTable | None
    summary: dict[str, Any]
    stages: tuple[StageRun, ...]

    def of_kind(self, kind: str) -> list[ModelRun]:
        """Return the models of one kind; where there are seeds, those and not a copy of one."""
        found = [model for model in self.models if model.kind == kind]
        return [model for model in found if model.seed is not None] or found

    def arch(self, kind: str) -> ModelArch | None:
        """Return the architecture of a kind, from the plan where the model itself is gone."""
        for model in self.of_kind(kind):
            if model.arch:
                return model.arch
        if self.plan is None:
            return self.scores.arch if self.scores and kind == TEACHER else None
        return self.plan.source if kind == TEACHER else self.plan.target

    def num_bytes(self, kind: str) -> int | None:
        """Return the bytes of the weights of the first model of a kind, None if it is gone."""
        return next((model.num_bytes for model in self.of_kind(kind) if model.num_bytes), None)


def read_run(root: Path) -> RunData:
    """Read the artifacts under `root`; raise `DataError` if it holds none or a damaged one."""
    if not root.is_dir():
        raise DataError(f"{root}: no such run directory; make one with `bielik demo` or `pipeline`")
    run = Run(root)
    plan = next((path for path in _plans(run) if path.is_file()), None)
    scores = run.scores / SCORES_NAME
    data = RunData(
        root=root,
        models=tuple(_model(run, name) for name in _model_names(run)),
        plan=PruningPlan.load(plan) if plan else None,
        scores=ScoreTable.load(scores) if scores.is_file() else None,
        summary=read_object(run.summary),
        stages=tuple(_stages(root)),
    )
    if not (data.models or data.plan or data.scores or data.summary):
        raise DataError(
            f"{root}: holds no run (no models, scores, evaluations or summary.json); give the "
            "directory that `bielik demo` or `bielik pipeline` wrote"
        )
    return data


def _plans(run: Run) -> list[Path]:
    return [run.model(PRUNED) / PLAN_NAME, run.root / PLAN_NAME]


def _model_names(run: Run) -> list[str]:
    """Return the names of models that were made or judged, in the order of `KINDS` and seeds."""
    folders = [run.model("x").parent, run.evaluation("x").parent]
    names = {path.name for folder in folders if folder.is_dir() for path in folder.iterdir()}
    matches = [match for name in names if (match := _MODEL_NAME.fullmatch(name))]
    matches.sort(key=lambda match: (KINDS.index(match[1]), int(match[2] or 0)))
    return [match[0] for match in matches]


def _model(run: Run, name: str) -> ModelRun:
    match = _MODEL_NAME.fullmatch(name)
    assert match is not None
    directory = run.model(name)
    has_config = (directory / "config.json").is_file()
    return ModelRun(
        name=name,
        kind=match[1],
        seed=int(match[2]) if match[2] else None,
        arch=ModelArch.from_hf_config(read_config(directory), name) if has_config else None,
        num_bytes=sum(path.stat().st_size for path in directory.glob("*.safetensors")) or None,
        manifest=_manifest(directory),
        metrics=read_metrics(directory / _METRICS),
        results=read_object(run.evaluation(name) / _RESULTS),
    )


def _stages(root: Path) -> Iterator[StageRun]:
    """Yield the finished stages in the order of the chain."""
    paths = [*root.glob(f"*/{MANIFEST_NAME}"), *root.glob(f"*/*/{MANIFEST_NAME}")]
    names = [path.parent.relative_to(root).as_posix() for path in paths]
    for name in sorted(names, key=_place):
        if not any(part.startswith(".") for part in Path(name).parts):
            yield StageRun(name, Manifest.load(root / name))


def _place(name: str) -> tuple[int, int, str]:
    places = [n for n, start in enumerate(_CHAIN) if name == start or name.startswith(start + "/")]
    match = _MODEL_NAME.fullmatch(name.split("/")[-1])
    return (
        places[0] if places else len(_CHAIN),
        KINDS.index(match[1]) if match else len(KINDS),
        name,
    )


def _manifest(directory: Path) -> Manifest | None:
    return Manifest.load(directory) if (directory / MANIFEST_NAME).is_file() else None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics file; a line torn by a kill ends it."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            break
        if isinstance(line, dict):
            lines.append(line)
    return lines


def read_object(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, an empty one if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: is not JSON ({error}); run the stage that makes it again"
        ) from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: must hold one JSON object; run the stage that makes it again")
    return value
