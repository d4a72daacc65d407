"""What a step that loads a model will need, predicted, against what a fresh process takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="GGUF needs nemo-bielik[gguf]")

#: 111 million weights in float32: 445 MB, which no constant hides.
LARGE = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "max_position_embeddings": 512,
}
#: 34 million: AWQ's search computes every matrix eleven times.
MIDDLE = LARGE | {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8}
SMALL = LARGE | {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1}
#: The allocator gives back at once what a step frees: by itself it does from 32 MB on, which are
#: the matrices of a model worth quantising, not the 1 to 16 MB of these.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "200000", "MALLOC_TRIM_THRESHOLD_": "200000"}


@pytest.fixture(scope="module")
def measured(make_model, tmp_path_factory):
    """Return a function from a model's shape and formats to bytes of each step."""

    def run(shape, *formats):
        script = Path(__file__).parent / "peak_memory.py"
        folders = [make_model("llama", **shape), make_model("llama", **SMALL)]
        words = [*folders, tmp_path_factory.mktemp("peak"), *formats]
        found = subprocess.run(
            [sys.executable, str(script), *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | GIVEN_BACK,
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])

    return run


def check(found):
    """A prediction of twice the need would refuse machines that suffice."""
    for step, one in found.items():
        assert 0.5 * one["predicted"] < one["taken"] < one["predicted"], (step, found)


def test_no_step_takes_more_than_was_predicted_nor_half_of_it(measured):
    found = measured(LARGE, "nvfp4", "int8", "fp8")
    assert set(found) == {"fp8", "nvfp4", "int8", "simulation", "importance"}
    check(found)


def test_awq_makes_what_servers_join_anew(measured):
    found = measured(MIDDLE, "int4-awq")
    check({"int4-awq": found["int4-awq"]})
