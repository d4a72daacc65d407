"""ModelOpt's scores and ours choose alike; what ModelOpt would ignore is cut from its scores."""

from typing import Any

import numpy as np
import pytest
from engine_room import STUDENT, UNEVEN

from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.select import select
from nemo_bielik.pruning.slice import apply_plan

SCORE = "nemo_bielik.pruning.score:score"
MODELS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "mistral": ("mistral", 2, UNEVEN),
    "llama": ("llama", 5, {"tie_word_embeddings": True, "num_key_value_heads": 2}),
}
#: None is a multiple of ModelOpt's divisors: 2 layers, 256 hidden, 512 ffn channels.
TARGETS: tuple[dict[str, int], ...] = (
    {"num_layers": 3, "hidden_size": 17, "ffn_hidden_size": 11},
    {"num_layers": 1, "num_attention_heads": 2, "num_query_groups": 2},
    {"hidden_size": 23, "num_attention_heads": 2, "num_query_groups": 1},
)


@pytest.fixture(scope="module")
def scored(lanes, tokens, tmp_path_factory):
    """Return a function that scores a model on 8 samples."""

    def run(model: Any, **changes: Any) -> ScoreTable:
        output = tmp_path_factory.mktemp("scored") / "output"
        settings = {"samples": 8, "sequence_length": 32, "micro_batch_size": 2} | changes
        lanes.run(SCORE, ScoreConfig(model=model, data=tokens, output=output, **settings))
        return ScoreTable.load(output / SCORES_NAME)

    return run


@pytest.fixture(scope="module", params=list(MODELS))
def model(request, make_model):
    family, seed, sizes = MODELS[request.param]
    return make_model(family, seed=seed, **sizes)


@pytest.fixture(scope="module")
def modelopt_table(scored, model):
    return scored(model, engine="modelopt")


def assert_same(found: ScoreTable, expected: ScoreTable) -> None:
    for name in ("hidden", "ffn", "heads", "cosine"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-5, err_msg=name
        )
    assert (found.samples, found.tokens) == (expected.samples, expected.tokens)
    assert found.model == expected.model


def test_both_engines_keep_the_same(scored, model, modelopt_table):
    ours = scored(model)
    assert_same(modelopt_table, ours)
    assert not np.array_equal(modelopt_table.hidden, ours.hidden)  # it was not ours again
    for target in TARGETS:
        shape = ours.arch.replace(**target)
        found, expected = (select(from_table(table), shape) for table in (modelopt_table, ours))
        assert found == expected, target


@pytest.mark.parametrize(
    "layout", [ParallelConfig(pipeline=2), ParallelConfig(data=2)], ids=["pipeline=2", "data=2"]
)
def test_modelopts_scores_are_the_same_however_the_work_is_split(scored, uneven_student, layout):
    found = scored(uneven_student, engine="modelopt", parallel=layout)
    assert_same(found, scored(uneven_student))


def test_what_modelopt_would_ignore_is_cut_from_its_scores(call, model, modelopt_table, tmp_path):
    """ModelOpt itself says "done", and its configuration lies; our slicer knows no divisors."""
    wanted, source = {"hidden_size": 17, "ffn_hidden_size": 11}, modelopt_table.arch
    claimed, found = call("modelopt_trap:pruned_shapes", model, wanted)[0]
    assert claimed == wanted
    assert found == {name: getattr(source, name) for name in wanted}
    plan = select(from_table(modelopt_table), source.replace(**wanted))
    apply_plan(Checkpoint.open(model), plan, tmp_path)
    cut = Checkpoint.open(tmp_path).arch
    assert {name: getattr(cut, name) for name in wanted} == wanted


def test_tensor_parallel_modelopt_scores_are_refused_in_one_line(scored, make_model):
    with pytest.raises(ConfigError, match=r"parallel\.tensor is 2; ModelOpt") as caught:
        scored(make_model(**STUDENT), engine="modelopt", parallel=ParallelConfig(tensor=2))
    assert "\n" not in str(caught.value)
