"""Taylor saliences agree with plain autograd and finite differences, however the work is split."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine_room import END_OF_DOCUMENT, STUDENT, VOCAB_SIZE, write_tokens
from taylor_reference import expected_saliences, mean_loss

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.taylor import ORDERS, TAYLOR_NAME, TaylorTable

SCORE = "nemo_bielik.pruning.score:score"
LENGTH, SAMPLES = 32, 6
LAYOUTS = {
    "one process": ParallelConfig(),
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
    "data=2": ParallelConfig(data=2),
}


@pytest.fixture(scope="module")
def scored(lanes, tokens, student, tmp_path_factory):
    """Return a function that collects gradients with some settings changed."""

    def run(**changes: Any) -> TaylorTable:
        output = tmp_path_factory.mktemp("scored") / "output"
        settings = {
            "model": student,
            "data": tokens,
            "output": output,
            "method": "llm-pruner",
            "samples": SAMPLES,
            "sequence_length": LENGTH,
        }
        lanes.run(SCORE, ScoreConfig(**settings | changes))
        assert [path.name for path in output.parent.iterdir()] == ["output"]
        return TaylorTable.load(output / TAYLOR_NAME)

    return run


@pytest.fixture(scope="module")
def table_of(scored):
    """Return a function from a layout's name to its table."""
    return functools.cache(lambda name: scored(parallel=LAYOUTS[name]))


@pytest.fixture(scope="module")
def sequences(call, tokens, tmp_path_factory):
    """The calibration sequences and their labels, [b, s]; most hold several documents."""
    cache = tmp_path_factory.mktemp("index")
    found = call("engine_cases:packed_samples", tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, cache)[0]
    packed = (found["tokens"][:, :-1] == END_OF_DOCUMENT).any(dim=1)
    assert packed.sum() > SAMPLES / 2
    return found["tokens"], found["labels"]


@pytest.fixture(scope="module")
def expected(student, sequences):
    return expected_saliences(student, *sequences)


def assert_same(found: TaylorTable, expected: Any, rel: float) -> None:
    """Compare to `rel` of a tensor's largest unit: small ones are differences of large ones."""
    for order in ORDERS:
        assert found.salience[order].keys() == expected[order].keys()
        for name, array in expected[order].items():
            np.testing.assert_allclose(
                found.salience[order][name],
                array,
                rtol=rel,
                atol=rel * array.max(),
                err_msg=f"{order} {name}",
            )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saliences_agree_with_plain_autograd(table_of, expected, sequences, student, layout):
    table = table_of(layout)
    assert_same(table, expected, 1e-4)
    assert table.tokens == (sequences[0] != END_OF_DOCUMENT).sum()
    assert table.samples == SAMPLES
    assert table.model == Checkpoint.open(student).fingerprint()


def test_the_fisher_term_matters_here(expected):
    first, fisher = (expected[order]["mlp.up_proj.weight/ffn"] for order in ORDERS)
    assert (np.abs(first - fisher) > 0.01 * first).mean() > 0.5


@pytest.mark.parametrize("layout", ["tensor=2", "pipeline=2", "data=2"])
def test_saliences_are_the_same_however_the_work_is_split(table_of, layout):
    assert_same(table_of(layout), table_of("one process").salience, 1e-5)


@pytest.mark.parametrize("layout", ["one process", "tensor=2", "pipeline=2"])
def test_tied_embeddings_of_another_family_agree_too(scored, make_model, sequences, layout):
    """Their gradient is made in two places, which pipeline stages hold apart."""
    model = make_model("llama", seed=5, tie_word_embeddings=True, **STUDENT)
    found = scored(model=model, parallel=LAYOUTS[layout])
    assert "lm_head.weight/hidden" not in found.salience["first"]
    assert_same(found, expected_saliences(model, *sequences), 1e-4)


@pytest.mark.parametrize(
    ("entry", "layer", "unit", "weight", "part"),
    [
        ("mlp.gate_proj.weight/ffn", 2, 7, "model.layers.2.mlp.gate_proj.weight", (7,)),
        ("mlp.down_proj.weight/ffn", 1, 3, "model.layers.1.mlp.down_proj.weight", (..., 3)),
        ("input_layernorm.weight/layer", 3, None, "model.layers.3.input_layernorm.weight", ()),
        ("model.embed_tokens.weight/hidden", 0, 5, "model.embed_tokens.weight", (..., 5)),
    ],
)
def test_first_order_saliences_are_finite_differences_of_the_loss(
    table_of, student, sequences, entry, layer, unit, weight, part
):
    """(L(w − εw) − L(w + εw)) / 2ε is −g·w, weight by weight, with a loss in float64."""
    model, loss = mean_loss(student, *sequences)
    weights, total, step = model.get_parameter(weight), 0.0, 1e-2
    with torch.no_grad():
        unit_weights = weights[part].reshape(-1)
        places = torch.arange(weights.numel()).view_as(weights)[part].reshape(-1)
        for place, value in zip(places, unit_weights.tolist(), strict=True):
            losses = []
            for sign in (-1, 1):
                weights.view(-1)[place] = value * (1 + sign * step)
                losses.append(loss().item())
            weights.view(-1)[place] = value
            total += abs(losses[0] - losses[1]) / (2 * step)
    found = table_of("one process").salience["first"][entry][layer]
    assert total > 1e-4
    assert (found if unit is None else found[unit]) == pytest.approx(total, rel=5e-4)


def test_samples_come_one_at_a_time(scored):
    with pytest.raises(ConfigError, match=r"micro_batch_size is 2; llm-pruner needs") as caught:
        scored(micro_batch_size=2)
    assert "\n" not in str(caught.value)


def test_text_with_nothing_to_predict_is_one_line(scored, tmp_path):
    silence = write_tokens(tmp_path / "tokens", [[END_OF_DOCUMENT]] * 300)
    with pytest.raises(DataError, match="nothing to predict") as caught:
        scored(data=silence)
    assert "\n" not in str(caught.value)


def test_the_manifest_counts_what_was_seen(lanes, student, tokens, tmp_path, table_of):
    """The same command again is a skipped stage, not a second run."""
    settings = {"model": student, "data": tokens, "output": tmp_path / "scores"}
    config = ScoreConfig(**settings, method="llm-pruner", samples=SAMPLES, sequence_length=LENGTH)
    lanes.run(SCORE, config)
    results = Manifest.load(config.output).results
    assert results == {"samples": SAMPLES, "tokens": table_of("one process").tokens}
    written = (config.output / TAYLOR_NAME).stat().st_mtime_ns
    lanes.run(SCORE, config)
    assert (config.output / TAYLOR_NAME).stat().st_mtime_ns == written
