"""A comparison of nine contenders with invented figures.

``python tests/compare/conftest.py FILE`` writes its page to look at.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.arch import ModelArch
from nemo_bielik.compare.contenders import DEFAULT, contender
from nemo_bielik.compare.table import share_percent
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.pruning.sparsity import Sparsity

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # handed on to lanes, which import the stage
    sys.path.insert(0, HERE)

#: The shape of the demo teacher, and what `bielik demo` cuts it to.
SOURCE = ModelArch(
    name="demo-teacher",
    vocab_size=2048,
    hidden_size=96,
    ffn_hidden_size=320,
    num_layers=6,
    num_attention_heads=6,
    num_query_groups=2,
    head_dim=16,
    max_position_embeddings=256,
)
SIZES = {"num_layers": 5, "ffn_hidden_size": 192}
TARGET = SOURCE.replace(name="target", **SIZES)
TEACHER = {
    "perplexity": 3.495,
    "minimal_pairs_accuracy": 0.9683,
    "fact_accuracy": 0.925,
    "fact_chance": 0.0625,
}
#: perplexity, pairs and facts right after the cut; the same recovered; score, prune and recovery
#: seconds; megabytes added
FIGURES: dict[str, tuple[float, ...]] = {
    "minitron": (4.92, 0.921, 0.597, 3.627, 0.9475, 0.857, 4.31, 0.412, 58.3, 212),
    "shortgpt": (6.81, 0.884, 0.421, 3.902, 0.9421, 0.766, 4.31, 0.388, 55.0, 212),
    "llm-pruner": (5.37, 0.907, 0.518, 3.688, 0.9447, 0.839, 17.62, 0.44, 58.9, 498),
    "llm-pruner@lora": (5.37, 0.907, 0.518, 4.231, 0.9312, 0.704, 17.62, 0.44, 49.2, 498),
    "sheared-llama": (5.02, 0.916, 0.571, 3.641, 0.9468, 0.849, 71.9, 0.42, 57.7, 534),
    "magnitude": (5.61, 0.911, 0.402, 3.574, 0.9561, 0.882, 0.0, 0.291, 71.4, 31),
    "wanda": (4.33, 0.942, 0.713, 3.561, 0.9583, 0.89, 5.07, 0.307, 71.8, 222),
    "sparsegpt": (3.98, 0.954, 0.801, 3.549, 0.9591, 0.899, 6.88, 2.914, 72.5, 341),
    "sparsegpt@2:4": (4.71, 0.933, 0.655, 3.601, 0.9523, 0.868, 6.88, 2.771, 72.1, 341),
}


def comparison() -> dict[str, Any]:
    """Return what `table.gather` would of such a comparison."""
    return {
        "settings": {
            "model": "runs/demo/models/teacher",
            "methods": list(FIGURES),
            "target": SIZES,
        },
        "model": {
            "name": "runs/demo/models/teacher",
            "parameters": count_parameters(SOURCE),
            **TEACHER,
        },
        "target_parameters": count_parameters(TARGET),
        "target": SIZES,
        "calibration_tokens": 16384,
        "recovery_tokens": 163840,
        "contenders": [_row(name) for name in DEFAULT],
    }


def _row(name: str) -> dict[str, Any]:
    row = contender(name, SOURCE, TARGET)
    scores = Path("scores") if row.method.statistics else None
    cut = row.prune_config(Path("teacher"), scores, Path("pruned"))
    arch = SOURCE.replace(**cut.sizes())
    linear = count_parameters(SOURCE) - 2 * 2048 * 96 - 13 * 96  # embeddings and norms
    structured = row.method.structured
    share = 0 if structured else Sparsity.parse(cut.sparsity, cut.pattern).ratio
    zeros = round(share * linear)
    parameters = count_parameters(arch)
    figures = FIGURES[name]
    return {
        "name": name,
        "method": row.method.name,
        "paper": row.method.paper,
        "granularity": row.method.granularity,
        "cut": row.cut,
        "parameters": parameters,
        "nonzero_parameters": parameters - zeros,
        "reduction_percent": 100 * (1 - (parameters - zeros) / count_parameters(SOURCE)),
        "zeros_after_recovery": zeros,
        "score_seconds": figures[6],
        "prune_seconds": figures[7],
        "added_bytes": int(figures[9] * 1e6),
        "recovery_seconds": figures[8],
        "pruned": judged(*figures[:3]),
        "recovered": judged(*figures[3:6]),
    }


def judged(perplexity: float, pairs: float, facts: float) -> dict[str, Any]:
    """Return the figures of one model."""
    figures = {
        "perplexity": perplexity,
        "minimal_pairs_accuracy": pairs,
        "fact_accuracy": facts,
        "fact_chance": TEACHER["fact_chance"],
    }
    return {**figures, "share_percent": share_percent(figures, TEACHER)}


def without_tasks(found: dict[str, Any]) -> dict[str, Any]:
    """Return the same comparison as it is where only perplexity was evaluated."""
    found = copy.deepcopy(found)
    tasks = ("minimal_pairs_accuracy", "fact_accuracy", "fact_chance")
    rows = [row[stage] for row in found["contenders"] for stage in ("pruned", "recovered")]
    for figures in [found["model"], *rows]:
        for task in tasks:
            figures.pop(task, None)
    for figures in rows:
        figures["share_percent"] = None
    return found


@pytest.fixture
def found() -> dict[str, Any]:
    """The whole comparison; a test may change it."""
    return comparison()


@pytest.fixture
def found_without_tasks() -> dict[str, Any]:
    """The comparison by perplexity alone."""
    return without_tasks(comparison())


@pytest.fixture(scope="session")
def archs() -> tuple[ModelArch, ModelArch]:
    """The original's shape and the target's."""
    return SOURCE, TARGET


@pytest.fixture(scope="session")
def judge() -> Callable[..., dict[str, Any]]:
    """Return the function from perplexity, pairs and facts to a model's figures."""
    return judged


if __name__ == "__main__":
    from nemo_bielik.compare.page import render

    Path(sys.argv[1]).write_text(render(comparison()), encoding="utf-8")
