"""The demo at toy size: what it writes is whole, and its figures are those of its artifacts."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SEEDS = (1, 2)
MEASURES = ("perplexity", "minimal_pairs_accuracy", "fact_accuracy")


@pytest.fixture(scope="module")
def run(toy_chain: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("demo") / "demo"
    command = [sys.executable, "-m", "nemo_bielik", "demo", "--output", str(run), *toy_chain]
    command += ["world.people=40", "world.train_documents=1500", "world.recovery_documents=400"]
    command += ["world.calibration_documents=100", "world.validation_documents=100"]
    command += ["world.test_documents=60", "world.pairs_per_phenomenon=6", "world.cloze_items=30"]
    command += ["from_scratch.iters=4", "from_scratch.sequence_length=32"]
    command += ["from_scratch.global_batch_size=8", "from_scratch.micro_batch_size=8"]
    command += ["from_scratch.eval_interval=2", "from_scratch.eval_iters=1"]
    command += ["from_scratch.optim.warmup_iters=1", "--seeds", *map(str, SEEDS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return run


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text("utf-8"))
    return found


def test_the_summary_holds_every_figure(summary: dict[str, Any]) -> None:
    models = ("baseline", "teacher", "pruned", "distilled", "label_trained", "from_scratch")
    for name in models:
        for measure in MEASURES:
            assert summary[name][measure] >= 0, (name, measure)
    for name in ("params_reduction_percent", "wall_seconds", "peak_rss_bytes"):
        assert summary[name] > 0
    assert "recovery_percent" in summary


def test_figures_are_those_of_the_evaluations(run: Path, summary: dict[str, Any]) -> None:
    for measure in MEASURES[1:]:
        seeds = [_results(run, f"distilled-seed{seed}")[measure] for seed in SEEDS]
        assert summary["distilled"][measure] == pytest.approx(statistics.fmean(seeds))
        assert summary["teacher"][measure] == _results(run, "teacher")[measure]


def _results(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (run / "evaluations" / name / "results.json").read_text("utf-8")
    )
    return found


def test_the_reduction_counts_one_embedding(summary: dict[str, Any]) -> None:
    attention = 32 * 32 * 2 + 2 * 32 * 16  # two heads of 16 in one group
    embedding = 400 * 32 + 32
    teacher = embedding + 2 * (attention + 3 * 32 * 64 + 2 * 32)
    pruned = embedding + attention + 3 * 32 * 32 + 2 * 32
    assert summary["params_reduction_percent"] == pytest.approx(100 * (1 - pruned / teacher))


def test_controls_train_on_the_same_number_of_tokens(run: Path) -> None:
    tokens = set()
    for way in ("distilled", "label_trained", "from_scratch"):
        for seed in SEEDS:
            manifest = run / "models" / f"{way}-seed{seed}" / "bielik_manifest.json"
            tokens.add(json.loads(manifest.read_text())["results"]["tokens"])
    assert tokens == {4 * 8 * 32}


def test_seeds_differ(run: Path) -> None:
    weights = {
        (run / "models" / f"distilled-seed{seed}" / "model.safetensors").read_bytes()
        for seed in SEEDS
    }
    assert len(weights) == len(SEEDS)


def test_a_report_stands_beside_the_summary(run: Path) -> None:
    page = (run / "report.html").read_text("utf-8")
    assert page.rstrip().endswith("</html>")
