"""Shares by hand, and a comparison gathered from directories as its stages leave them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.compare.stage import CompareConfig, Comparison
from nemo_bielik.compare.table import gather, print_table, share_percent
from nemo_bielik.errors import DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.shape import Shape

ORIGINAL = {
    "perplexity": 4.0,
    "minimal_pairs_accuracy": 0.9,
    "fact_accuracy": 0.7,
    "fact_chance": 0.2,
}
PROJECTION = "model.layers.2.mlp.gate_proj.weight"


def test_the_share_is_the_mean_above_guessing() -> None:
    """Pairs (0.7 - 0.5) / (0.9 - 0.5) = 50 %, facts (0.3 - 0.2) / (0.7 - 0.2) = 20 %."""
    figures = {"minimal_pairs_accuracy": 0.7, "fact_accuracy": 0.3}
    assert share_percent(figures, ORIGINAL) == pytest.approx(35)
    assert share_percent(ORIGINAL, ORIGINAL) == pytest.approx(100)
    worse_than_guessing = {"minimal_pairs_accuracy": 0.4, "fact_accuracy": 0.2}
    assert share_percent(worse_than_guessing, ORIGINAL) == pytest.approx(-12.5)


def test_what_was_not_evaluated_does_not_count() -> None:
    pairs, facts = {"minimal_pairs_accuracy": 0.7}, {"fact_accuracy": 0.3}
    assert share_percent(pairs, {"minimal_pairs_accuracy": 0.9}) == pytest.approx(50)
    assert share_percent(facts, {"fact_accuracy": 0.7, "fact_chance": 0.2}) == pytest.approx(20)
    assert share_percent({"perplexity": 5.0}, {"perplexity": 4.0}) is None


def test_an_original_that_guesses_has_nothing_to_keep() -> None:
    with pytest.raises(DataError, match="no better than the baseline"):
        share_percent({"minimal_pairs_accuracy": 0.7}, {"minimal_pairs_accuracy": 0.5})


@pytest.fixture
def finished(
    tmp_path: Path, make_model: Callable[..., Path], edit_weights: Callable[..., Any]
) -> Comparison:
    """One contender, magnitude, with 20 zeros that recovery kept."""
    config = CompareConfig(
        model=make_model(seed=5),
        calibration=Path("calibration"),
        train_data=Path("train"),
        validation_data=Path("validation"),
        texts=[Path("text")],
        output=tmp_path / "comparison",
        methods=["magnitude"],
        target=Shape(num_layers=3),
        score_samples=16,
    )
    comparison = Comparison(config)
    (row,) = comparison.contenders
    figures = {"teacher": ORIGINAL}
    for model, perplexity, pairs in (
        (comparison.pruned(row), 9.0, 0.6),
        (comparison.recovered(row), 5.0, 0.8),
    ):
        shutil.copytree(config.model, model)
        with edit_weights(model) as weights:
            weights[PROJECTION][0, :20] = 0
        judged = {"perplexity": perplexity, "minimal_pairs_accuracy": pairs}
        figures[comparison.evaluation(model).name] = ORIGINAL | judged
    for name, value in figures.items():
        _write(comparison.root / "evaluations" / name / "results.json", value | {"tokens": 9})
    Manifest(stage="distill", config={}, results={"seconds": 12.5}).save(comparison.recovered(row))
    _write(comparison.cost("prune", "magnitude"), {"seconds": 0.4, "added_bytes": 1000})
    return comparison


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_comparison_is_gathered_from_its_directories(
    finished: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer of the tiny model: q, o 36·24 each, k, v 18·24 each, three of 20·24, two norms."""
    layer = 24 * (2 * 36 + 2 * 18 + 3 * 20 + 2)
    whole = 2 * 48 * 24 + 24 + 4 * layer
    found = gather(finished)
    (row,) = found["contenders"]
    assert found["model"]["parameters"] == row["parameters"] == whole
    assert found["target_parameters"] == whole - layer
    assert found["target"] == {"num_layers": 3}
    assert row["nonzero_parameters"] == whole - 20
    assert row["reduction_percent"] == pytest.approx(100 * 20 / whole)
    assert row["zeros_after_recovery"] == 20
    assert (row["score_seconds"], row["prune_seconds"], row["recovery_seconds"]) == (0, 0.4, 12.5)
    assert row["added_bytes"] == 1000
    assert row["pruned"]["share_percent"] == pytest.approx((25 + 100) / 2)
    assert row["recovered"]["share_percent"] == pytest.approx((75 + 100) / 2)
    assert "tokens" not in row["recovered"]
    print_table(found)
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("magnitude", "62.5 %", "87.5 %", f"{whole - 20:,}"))


def test_zeros_that_came_back_are_an_error(
    finished: Comparison, edit_weights: Callable[..., Any]
) -> None:
    (row,) = finished.contenders
    with edit_weights(finished.recovered(row)) as weights:
        weights[PROJECTION][0, 3:5] = 0.125
    with pytest.raises(DataError, match="2 weights that magnitude had set to zero") as error:
        gather(finished)
    assert "\n" not in str(error.value)
