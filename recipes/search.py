"""The architecture search: the report's ten shapes at full size, and a tiny one on the demo."""

from dataclasses import replace
from pathlib import Path

from nemo_bielik.recipes import minitron_7b, tiny
from nemo_bielik.recipes.bielik_11b_v3 import MODEL, RUN
from nemo_bielik.recipes.tiny_stages import DEMO
from nemo_bielik.runs import TEACHER
from nemo_bielik.search.config import SearchConfig


def paper() -> SearchConfig:
    """The report's ten on 2 × 8 H200, the teacher live: a cache would take 6.5 TB."""
    return SearchConfig(
        model=MODEL,
        calibration=RUN.tokens("calibration"),
        train_data=RUN.tokens("recovery"),
        validation_data=RUN.tokens("validation"),
        output=Path("runs/bielik-search"),
        preset="paper",
        teacher="live",
        lanes=16,
        recovery=minitron_7b.recovery(),
    )


def on_the_demo() -> SearchConfig:
    """Four shapes of the demo's teacher, about two fifths smaller."""
    return SearchConfig(
        model=DEMO.model(TEACHER),
        calibration=DEMO.tokens("calibration"),
        train_data=DEMO.tokens("recovery"),
        validation_data=DEMO.tokens("validation"),
        output=Path("runs/tiny-search"),
        candidates=[
            "source:num_layers=5,ffn_hidden_size=176",
            "source:num_layers=4,ffn_hidden_size=224",
            "source:ffn_hidden_size=128",
            "source:num_layers=3",
        ],
        # validated often enough for a forecast from the first rung
        recovery=replace(tiny.recovery(), eval_interval=10),
    )
