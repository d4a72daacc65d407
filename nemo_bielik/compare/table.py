"""A finished comparison as one value: every contender's size, cost and figures."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.compare.contenders import Contender
from nemo_bielik.compare.measure import count_revived, count_zeros, read_cost
from nemo_bielik.compare.ranking import rank
from nemo_bielik.config_text import to_plain
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.recovery import recovery_percent
from nemo_bielik.evaluate.stage import RESULTS_NAME
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.runs import TEACHER

if TYPE_CHECKING:
    from nemo_bielik.compare.stage import Comparison

_CHANCE_OF_PAIRS = 0.5
_MEASURES = ("perplexity", "minimal_pairs_accuracy", "fact_accuracy", "fact_chance")


def gather(comparison: "Comparison") -> dict[str, Any]:
    """Return the content of ``comparison.json``.

    Raises `DataError` if recovery brought back a weight that its method had set to zero.
    """
    teacher = _figures(comparison.root / "evaluations" / TEACHER)
    recovery = comparison.config.recovery
    return {
        "settings": to_plain(comparison.config),
        "model": {
            "name": str(comparison.config.model),
            "parameters": count_parameters(comparison.source),
            **teacher,
        },
        "target_parameters": count_parameters(comparison.target),
        "target": comparison.config.target.given(),
        "calibration_tokens": comparison.config.score_samples * recovery.sequence_length,
        "recovery_tokens": recovery.tokens,
        "contenders": [_row(comparison, row, teacher) for row in comparison.contenders],
    }


def _row(comparison: "Comparison", row: Contender, teacher: dict[str, float]) -> dict[str, Any]:
    pruned, recovered = comparison.pruned(row), comparison.recovered(row)
    models = [Checkpoint.open(model) for model in (pruned, recovered)]
    parameters = count_parameters(models[0].arch)
    zeros = 0 if row.method.structured else count_zeros(models[0])
    if zeros and (revived := count_revived(*models)):
        raise DataError(
            f"{recovered}: {revived:,} weights that {row.name} had set to zero came back in "
            "recovery; its sparsity is not what it says"
        )
    scores = comparison.scores(row)
    score_cost = read_cost(comparison.cost("score", scores.name)) if scores else {}
    prune_cost = read_cost(comparison.cost("prune", row.cut_label))
    return {
        "name": row.name,
        "method": row.method.name,
        "paper": row.method.paper,
        "granularity": row.method.granularity,
        "cut": row.cut,
        "parameters": parameters,
        "nonzero_parameters": parameters - zeros,
        "reduction_percent": 100 * (1 - (parameters - zeros) / count_parameters(comparison.source)),
        "zeros_after_recovery": zeros,
        "score_seconds": score_cost.get("seconds", 0.0),
        "prune_seconds": prune_cost["seconds"],
        "added_bytes": max(score_cost.get("added_bytes", 0), prune_cost["added_bytes"]),
        "recovery_seconds": Manifest.load(recovered).results["seconds"],
        "pruned": _judged(comparison.evaluation(pruned), teacher),
        "recovered": _judged(comparison.evaluation(recovered), teacher),
    }


def _judged(evaluation: Path, teacher: dict[str, float]) -> dict[str, float | None]:
    figures = _figures(evaluation)
    return {**figures, "share_percent": share_percent(figures, teacher)}


def share_percent(figures: dict[str, float], teacher: dict[str, float]) -> float | None:
    """Return the share of the teacher's score above guessing, mean over pairs and facts.

    None where neither was evaluated.
    """
    chances = {
        "minimal_pairs_accuracy": _CHANCE_OF_PAIRS,
        "fact_accuracy": teacher.get("fact_chance", 0.0),
    }
    shares = [
        recovery_percent(figures[name], teacher[name], chance)
        for name, chance in chances.items()
        if name in teacher
    ]
    return sum(shares) / len(shares) if shares else None


def _figures(evaluation: Path) -> dict[str, float]:
    found = json.loads((evaluation / RESULTS_NAME).read_text(encoding="utf-8"))
    return {name: found[name] for name in _MEASURES if name in found}


def print_table(found: dict[str, Any]) -> None:
    """Print the comparison, best recovered first."""
    print(f"\n{'':<18}{'weights':>9}{'right after the cut':>22}{'recovered':>18}{'seconds':>9}")
    print(f"{'':<18}{'left':>9}{'perplexity':>12}{'kept':>10}{'perplexity':>12}{'kept':>6}")
    model = found["model"]
    print(f"{'original':<18}{model['parameters']:>9,}{model['perplexity']:>12.2f}{'100 %':>10}")
    for row in (standing.row for standing in rank(found).standings):
        pruned, recovered = row["pruned"], row["recovered"]
        print(
            f"{row['name']:<18}{row['nonzero_parameters']:>9,}{pruned['perplexity']:>12.2f}"
            f"{_percent(pruned):>10}{recovered['perplexity']:>12.2f}{_percent(recovered):>8}"
            f"{row['score_seconds'] + row['prune_seconds']:>7.1f}"
        )


def _percent(judged: dict[str, Any]) -> str:
    share = judged["share_percent"]
    return "–" if share is None else f"{share:.1f} %"
