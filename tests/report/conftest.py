"""A run directory with invented figures, written through the classes that real runs use.

``python tests/report/conftest.py DIRECTORY`` writes one to look at.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PLAN_NAME, SCORES_NAME, PruningPlan, ScoreTable
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import reduction_percent
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.select import select
from nemo_bielik.runs import Run
from nemo_bielik.tensors import tensor_rows

SOURCE = ModelArch(
    name="synthetic-teacher",
    vocab_size=512,
    hidden_size=64,
    ffn_hidden_size=192,
    num_layers=10,
    num_attention_heads=8,
    num_query_groups=2,
    head_dim=8,
    max_position_embeddings=128,
)
TARGET = SOURCE.replace(name="synthetic-pruned", num_layers=7, ffn_hidden_size=112, hidden_size=56)
PHENOMENA = (
    "adjective_case", "adjective_gender", "adjective_number", "genitive_of_negation",
    "past_gender", "preposition_case", "subject_verb_number", "verb_case",
)  # fmt: skip
RELATIONS = ("born_in", "keeps", "lives_in", "occupation", "studied")
VERSIONS = {"nemo-bielik": "0.1.0", "torch": "2.11.0", "megatron-core": "0.16.1"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: kind → seeds, perplexity, minimal pairs, facts
FIGURES: dict[str, tuple[int, float, float, float]] = {
    "teacher": (0, 4.31, 0.982, 0.947),
    "pruned": (0, 38.7, 0.713, 0.164),
    "distilled": (3, 4.71, 0.967, 0.861),
    "label_trained": (3, 5.08, 0.951, 0.782),
    "from_scratch": (3, 9.84, 0.846, 0.241),
}


def synthetic_scores() -> ScoreTable:
    generator = np.random.default_rng(7)
    layers, tokens = SOURCE.num_layers, 65536
    depth = np.linspace(0.6, 1.6, layers)[:, None]
    cosine = 1 - np.array([0.31, 0.16, 0.09, 0.051, 0.038, 0.041, 0.047, 0.062, 0.088, 0.19])
    return ScoreTable(
        arch=SOURCE,
        hidden=generator.lognormal(0, 0.8, SOURCE.hidden_size)
        * generator.uniform(0.8, 1.2, (2 * layers, 1)),
        ffn=depth * generator.lognormal(-1, 1.3, (layers, SOURCE.ffn_hidden_size)),
        heads=depth * generator.lognormal(0, 0.7, (layers, SOURCE.num_attention_heads)),
        cosine=cosine * tokens,
        samples=512,
        tokens=tokens,
        model="f" * 64,
    )


def synthetic_plan() -> PruningPlan:
    return select(from_table(synthetic_scores()), TARGET)


def write_run(root: Path) -> Path:
    """Write a whole run and return its directory."""
    run = Run(root)
    _write_early_stages(run)
    for kind, (seeds, *_) in FIGURES.items():
        for seed in range(1, seeds + 1) or [0]:
            write_model(run, f"{kind}-seed{seed}" if seed else kind, kind, seed)
    synthetic_plan().save(run.model("pruned") / PLAN_NAME)
    write_json(run.summary, summary())
    return root


def _write_early_stages(run: Run) -> None:
    for name, stage, seconds in (
        ("tokenizer", "tokenizer", 2.4),
        ("tokens/train", "tokenize", 5.1),
        ("tokens/recovery", "tokenize", 1.2),
        ("scores", "score", 9.8),
    ):
        write_manifest(run.root / name, stage, {"output": f"runs/synthetic/{name}"}, seconds)
    synthetic_scores().save(run.scores / SCORES_NAME)


def write_model(run: Run, name: str, kind: str, seed: int) -> None:
    """Write a model directory and its evaluation."""
    arch = SOURCE if kind == "teacher" else TARGET
    directory = run.model(name)
    directory.mkdir(parents=True)
    write_json(directory / "config.json", arch.to_hf_config())
    weights = {row.name: np.zeros(row.shape, np.float16) for row in tensor_rows(arch)}
    save_file(weights, directory / "model.safetensors")
    stage = {"teacher": "train", "pruned": "prune", "label_trained": "train"}.get(kind, "distill")
    lines = [] if kind == "pruned" else metrics(kind, seed)
    if lines:
        (directory / "training").mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (directory / "training" / "metrics.jsonl").write_text(text, encoding="utf-8")
    tokens = max((line.get("tokens", 0) for line in lines), default=0)
    config = {"model": "runs/synthetic/models/start", "output": f"runs/synthetic/models/{name}"}
    if stage != "prune":
        config |= {"train_data": "runs/synthetic/tokens/recovery", "seed": seed or 1,
                   "optim": {"max_lr": 0.0012, "min_lr": 0.00001, "decay": "cosine"}}  # fmt: skip
    seconds = lines[-1]["seconds"] if lines else 0.6
    write_manifest(directory, stage, config, seconds, {"tokens": tokens})
    evaluation = run.evaluation(name)
    write_manifest(evaluation, "evaluate", {"model": f"runs/synthetic/models/{name}"}, 4.2)
    write_json(evaluation / "results.json", results(kind, seed))


def metrics(kind: str, seed: int) -> list[dict[str, Any]]:
    """Return losses that fall as real ones do, 2,048 tokens a step, validated every 50."""
    start, end, steps = {
        "teacher": (6.2, 1.46, 900),
        "distilled": (2.6, 0.075, 300),
        "label_trained": (3.9, 1.62, 300),
        "from_scratch": (4.7, 0.82, 300),
    }[kind]
    noise = np.random.default_rng(seed + 10).normal(0, 0.03, steps + 1)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        loss = end + (start - end) * math.exp(-9 * step / steps) + 0.1 * end * (1 - step / steps)
        lines.append({
            "step": step, "tokens": step * 2048, "loss": loss * math.exp(noise[step]),
            "grad_norm": 1.0, "learning_rate": 1e-3, "seconds": round(0.16 * step, 3),
        })  # fmt: skip
        if step % 50 == 0:
            validation = loss * (1.03 + 0.004 * seed)
            lines.append({"step": step, "validation_loss": validation, "seconds": 0.16 * step})
            if kind == "distilled":
                lines[-1]["classes"] = token_classes(validation, seed)
    return lines


def token_classes(kl: float, seed: int) -> dict[str, dict[str, float]]:
    """Return a split that adds up to `kl`; only the first seed has tokens of high entropy."""
    shares = {"all": (1.0, 1.0), "entropy below 0.1": (0.6, 0.1)}
    rest = {"entropy 0.1 to 0.7": (0.4, 0.9)}
    if seed == 1:
        rest = {"entropy 0.1 to 0.7": (0.3, 0.4), "entropy from 3.0": (0.1, 0.5)}
    shares |= rest | {"same top token": (0.8, 0.3), "another top token": (0.2, 0.7)}
    agreement = {"same top token": 1.0, "another top token": 0.0}
    return {
        name: {"tokens": round(1000 * tokens), "share": tokens, "kl": kl * part / tokens,
               "entropy": 0.5, "agreement": agreement.get(name, 0.8)}
        for name, (tokens, part) in shares.items()
    }  # fmt: skip


def figures(kind: str, seed: int) -> dict[str, float]:
    """Return the figures of one seed; seed 2 lies at the mean of three."""
    seeds, perplexity, pairs, facts = FIGURES[kind]
    shift = (seed - 2) if seeds else 0
    return {
        "perplexity": perplexity * (1 + 0.006 * shift),
        "minimal_pairs_accuracy": pairs + 0.003 * shift,
        "fact_accuracy": facts + 0.011 * shift,
    }


def results(kind: str, seed: int) -> dict[str, Any]:
    """Return what the evaluation of one model writes."""
    own = figures(kind, seed)
    return {
        **own,
        "tokens": 48211,
        "bits_per_byte": 0.61,
        "by_phenomenon": _grouped(PHENOMENA, own["minimal_pairs_accuracy"], 0.5, seed),
        "fact_chance": 0.1,
        "by_relation": _grouped(RELATIONS, own["fact_accuracy"], 0.1, seed),
    }


def _grouped(
    groups: tuple[str, ...], mean: float, chance: float, seed: int
) -> dict[str, dict[str, Any]]:
    room = min(1 - mean, mean - chance)
    shifts = np.sin(np.arange(len(groups)) * 2.4 + 0.1 * seed)
    shifts -= shifts.mean()
    return {
        group: {"accuracy": float(mean + 0.8 * room * shift), "items": 250}
        for group, shift in zip(groups, shifts, strict=True)
    }


def summary() -> dict[str, Any]:
    """Return the summary that the demo writes."""
    unigram = {"minimal_pairs_accuracy": 0.5, "fact_accuracy": 0.102, "perplexity": 412.0}
    bigram = {"minimal_pairs_accuracy": 0.571, "fact_accuracy": 0.118, "perplexity": 96.4}
    by_group = {
        "by_phenomenon": {name: 0.5 + 0.02 * n for n, name in enumerate(PHENOMENA)},
        "by_relation": {name: 0.09 + 0.01 * n for n, name in enumerate(RELATIONS)},
    }
    value: dict[str, Any] = {
        "baseline": {**bigram, "unigram": unigram, "bigram": bigram | by_group},
        "params_reduction_percent": reduction_percent(SOURCE, TARGET),
        "wall_seconds": 551.8,
        "peak_rss_bytes": 3_412_000_000,
        "label_learning_rates": [
            {"learning_rate": 3e-4, "validation_perplexity": 5.61},
            {"learning_rate": 1e-3, "validation_perplexity": 5.12},
            {"learning_rate": 3e-3, "validation_perplexity": 5.37},
        ],
        "targets": [
            {"name": "teacher on minimal pairs", "wanted": "≥ 95 %", "got": "98.2 %", "met": True},
            {"name": "teacher on facts", "wanted": "≥ 90 %", "got": "94.7 %", "met": True},
            {"name": "pruned", "wanted": "< 75 %", "got": "20.0 %", "met": True},
            {"name": "distilled", "wanted": "≥ 95 %", "got": "93.1 %", "met": False},
        ],
    }
    for kind, (seeds, *_) in FIGURES.items():
        value[kind] = figures(kind, 2 if seeds else 0)
        if seeds:
            value[kind]["seeds"] = [{**figures(kind, n), "seed": n} for n in (1, 2, 3)]
    return value


def write_manifest(
    directory: Path,
    stage: str,
    config: dict[str, Any],
    seconds: float,
    told: dict[str, Any] | None = None,
) -> None:
    """Write the manifest of a finished stage."""
    directory.mkdir(parents=True, exist_ok=True)
    Manifest(
        stage=stage, config=config, wall_seconds=seconds, results=told or {}, versions=VERSIONS,
        git_commit=COMMIT,
    ).save(directory)  # fmt: skip


def write_json(path: Path, value: Any) -> None:
    """Write one JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run; tests only read it."""
    return write_run(tmp_path_factory.mktemp("run") / "synthetic")


@pytest.fixture
def new_run(tmp_path: Path) -> Path:
    """A whole run that a test may change."""
    return write_run(tmp_path / "synthetic")


@pytest.fixture(scope="session")
def plan() -> PruningPlan:
    """The plan of the synthetic run."""
    return synthetic_plan()


@pytest.fixture(scope="session")
def store_json() -> Callable[[Path, Any], None]:
    """Return the function that writes a JSON file."""
    return write_json


if __name__ == "__main__":
    write_run(Path(sys.argv[1]))
