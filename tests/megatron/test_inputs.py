"""Input norms and Hessians agree with plain transformers, however model and text are split."""

from typing import Any

import numpy as np
import pytest
import torch
from engine_room import STUDENT, VOCAB_SIZE
from input_reference import expected_inputs

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.input_statistics import (
    INPUT_NORMS_NAME,
    INPUTS,
    Hessians,
    InputNorms,
    input_sizes,
)
from nemo_bielik.pruning.score import ScoreConfig

SCORE = "nemo_bielik.pruning.score:score"
LENGTH, SAMPLES = 32, 8
LAYOUTS = {
    "one process": ParallelConfig(),
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
    "data=2": ParallelConfig(data=2),
}


@pytest.fixture(scope="module")
def settings(tokens, student):
    return {
        "model": student,
        "data": tokens,
        "samples": SAMPLES,
        "sequence_length": LENGTH,
        "micro_batch_size": 2,
    }


@pytest.fixture(scope="module")
def scored(lanes, settings, tmp_path_factory):
    """Return a function that scores with some settings changed, and returns the directory."""

    def run(method: str, **changes: Any) -> Any:
        output = tmp_path_factory.mktemp("scored") / "output"
        lanes.run(SCORE, ScoreConfig(**settings | {"output": output, "method": method} | changes))
        results = Manifest.load(output).results
        assert results == {"samples": SAMPLES, "tokens": SAMPLES * LENGTH}
        assert [path.name for path in output.parent.iterdir()] == ["output"]
        return output

    return run


@pytest.fixture(scope="module")
def expected(call, tokens, student, tmp_path_factory):
    arguments = (tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, tmp_path_factory.mktemp("index"))
    rows = call("engine_cases:packed_samples", *arguments)[0]["tokens"]
    return expected_inputs(student, rows)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_norms_agree_with_plain_transformers(scored, student, expected, layout):
    table = InputNorms.load(scored("wanda", parallel=layout) / INPUT_NORMS_NAME)
    for name in INPUTS:
        squares = [np.diag(layer[name]) for layer in expected]
        np.testing.assert_allclose(table.squares[name], squares, rtol=1e-4, err_msg=name)
    assert (table.tokens, table.model) == (SAMPLES * LENGTH, Checkpoint.open(student).fingerprint())


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_hessians_agree_with_plain_transformers(scored, student, expected, layout):
    hessians = Hessians.load(scored("sparsegpt", parallel=layout))
    for layer, matrices in enumerate(expected):
        for name, matrix in matrices.items():
            found = hessians.read(layer, name).numpy()
            assert found.dtype == np.float32
            np.testing.assert_allclose(
                found, matrix, rtol=1e-4, atol=1e-5 * np.diag(matrix).mean(), err_msg=name
            )
    assert len(hessians.layers) == len(expected)
    assert hessians.tokens == SAMPLES * LENGTH
    assert hessians.model == Checkpoint.open(student).fingerprint()


def test_tensor_ranks_share_widths_that_they_do_not_divide(scored, make_model):
    model = make_model(seed=7, hidden_size=25, **STUDENT)
    whole = Hessians.load(scored("sparsegpt", model=model))
    split = Hessians.load(scored("sparsegpt", model=model, parallel=ParallelConfig(tensor=2)))
    for layer in range(len(whole.layers)):
        for name in INPUTS:
            np.testing.assert_allclose(
                split.read(layer, name), whole.read(layer, name), rtol=1e-3, atol=1e-3
            )
    assert whole.read(0, "qkv_proj").shape == (25, 25)


def test_ranks_that_split_the_sequence_see_all_of_it(call, student):
    """Sequence parallelism itself needs Transformer Engine; its sums do not."""
    generator = torch.Generator().manual_seed(0)
    sizes = input_sizes(Checkpoint.open(student).arch)
    given = {name: torch.randn(6, 4, size, generator=generator) for name, size in sizes.items()}
    parallel = ParallelConfig(tensor=2)
    answers = call("sparse_cases:sums_of_a_split_sequence", student, given, parallel=parallel)
    matrices = answers[0][1]
    for name, activations in given.items():
        tokens = activations.flatten(0, 1).double()
        wanted = tokens.T @ tokens
        torch.testing.assert_close(matrices[name].double(), wanted, rtol=1e-5, atol=1e-5)
        for squares, _, _ in answers:
            torch.testing.assert_close(squares[name][0], wanted.diagonal(), rtol=1e-6, atol=0)
    assert answers[0][2] == answers[1][2]


def test_a_disk_too_small_for_the_hessians_is_one_line(lanes, settings, tmp_path):
    config = ScoreConfig(**settings, output=tmp_path / "output", method="sparsegpt")
    with pytest.raises(StorageError, match=r"needs .* GB, only 0\.00 GB are free") as caught:
        lanes.run("sparse_cases:score_on_a_full_disk", config)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
