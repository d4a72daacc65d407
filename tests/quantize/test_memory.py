"""What a step that loads a model will need, predicted, against what a fresh process takes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="GGUF needs nemo-bielik[gguf]")

#: 25 million weights: enough to stand out from the programs' own memory.
LARGE = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def steps(make_model, tmp_path_factory):
    """Predicted and measured bytes of calibration, simulation and importance matrix."""
    output = tmp_path_factory.mktemp("peak") / "fp8"
    script = Path(__file__).parent / "peak_memory.py"
    words = [sys.executable, str(script), str(make_model("llama", **LARGE)), str(output)]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["calibration", "simulation", "importance"])
def test_no_step_takes_more_than_was_predicted(steps, name):
    assert steps[name]["peak"] < steps[name]["predicted"]


def test_calibration_takes_most_of_what_was_predicted(steps):
    """A prediction of twice the need would refuse machines that suffice."""
    found = steps["calibration"]
    assert found["peak"] - found["before"] > 0.5 * found["predicted_taken"]
