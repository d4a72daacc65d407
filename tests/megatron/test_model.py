"""A Hugging Face directory and its Megatron model say the same, however the model is split."""

import pytest
import torch
from engine_room import STUDENT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from nemo_bielik.errors import CheckpointError
from nemo_bielik.parallel import ParallelConfig

LAYOUTS = {
    "one process": ParallelConfig(),
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
}
MODELS = {
    "mistral": {"family": "mistral"},
    "mistral, tied": {"family": "mistral", "tie_word_embeddings": True},
    "llama": {"family": "llama"},
    "llama, tied": {"family": "llama", "tie_word_embeddings": True},
    "five layers": {"family": "mistral", "num_hidden_layers": 5},
}


@pytest.fixture(scope="module")
def models(make_model):
    return {name: make_model(seed=7, **STUDENT, **changes) for name, changes in MODELS.items()}


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 48, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_exported_tensors_are_the_models_own(
    call, models, logits, ids, tmp_path, name, layout
):
    model, output = models[name], tmp_path / "exported"
    arguments = (model, layout, ids, output)
    found = call("engine_cases:round_trip", *arguments, parallel=layout)[-1]
    expected = logits(model, ids, torch.float64)
    assert expected.abs().max() > 1  # an all-zero model would agree with anything
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    before, after = (load_file(path / "model.safetensors") for path in (model, output))
    assert before.keys() == after.keys()
    for tensor, weights in before.items():
        assert torch.equal(weights, after[tensor]), tensor


def test_the_exported_directory_gives_the_same_logits_in_transformers(
    call, models, logits, ids, tmp_path
):
    call("engine_cases:round_trip", models["llama"], ParallelConfig(), ids, tmp_path / "exported")
    assert torch.equal(logits(tmp_path / "exported", ids), logits(models["llama"], ids))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_in_one_line(
    call, make_model, edit_weights, ids, value
):
    model = make_model(**STUDENT)
    with edit_weights(model) as weights:
        weights["model.layers.2.mlp.down_proj.weight"][3, 1] = value
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp.*NaN or infinite") as caught:
        call("engine_cases:round_trip", model, ParallelConfig(), ids)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def layouts(call):
    """Layers of every stage, for every depth to 60 on up to 9 stages."""
    return call("engine_cases:layer_counts", 60, 9)[0]


@given(st.data())
def test_layers_are_spread_evenly_with_the_surplus_in_the_middle(layouts, data):
    layers = data.draw(st.integers(1, 60))
    stages = data.draw(st.integers(1, min(layers, 9)))
    counts = layouts[layers, stages]
    if layers % stages == 0:
        assert counts is None  # Megatron's own even split
        return
    assert len(counts) == stages
    assert sum(counts) == layers
    assert max(counts) - min(counts) == 1
    if stages > 2:
        # the ends also hold the embedding and the output layer: they are enlarged last
        assert max(counts[0], counts[-1]) == min(counts) or min(counts[1:-1]) == max(counts)


def test_bieliks_fifty_layers_on_four_stages(layouts):
    assert layouts[50, 4] == [12, 13, 13, 12]


def test_embedding_and_loss_stand_on_the_first_and_last_stage(call):
    layout = call("nemo_bielik.megatron.model:pipeline_layout", 5, 2)[0]
    assert layout[0][0] == "embedding"
    assert layout[-1][-1] == "loss"
    assert sum(part != "decoder" for stage in layout for part in stage) == 2


def test_every_record_is_in_the_log_of_its_time(call, tmp_path):
    """Without a handler of its own, the root logger makes one that outlives the first log."""
    logs = [tmp_path / "first", tmp_path / "second"]
    call("engine_cases:log_twice", *logs)
    for log in logs:
        assert log.read_text() == f"one record for {log.name}\nand a line\n"
