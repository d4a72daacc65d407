"""Scores agree with the equations in plain transformers, however the model and text are split."""

from typing import Any

import numpy as np
import pytest
from engine_room import END_OF_DOCUMENT, STUDENT, VOCAB_SIZE
from score_reference import expected_scores

from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, ConfigError
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.score import ScoreConfig, score
from nemo_bielik.training import ParallelConfig

SCORE = "nemo_bielik.pruning.score:score"
LENGTH, SAMPLES = 32, 8
ARRAYS = ("hidden", "ffn", "heads", "cosine")


@pytest.fixture(scope="module")
def scored(lanes, tokens, student, tmp_path_factory):
    """Return a function that scores with some settings changed."""

    def run(**changes: Any) -> ScoreTable:
        output = tmp_path_factory.mktemp("scored") / "output"
        settings = {
            "model": student,
            "data": tokens,
            "output": output,
            "samples": SAMPLES,
            "sequence_length": LENGTH,
            "micro_batch_size": 2,
        }
        lanes.run(SCORE, ScoreConfig(**settings | changes))
        table = ScoreTable.load(output / SCORES_NAME)
        results = Manifest.load(output).results
        assert results["block_influence"] == table.block_influence().tolist()
        assert [path.name for path in output.parent.iterdir()] == ["output"]
        return table

    return run


@pytest.fixture(scope="module")
def student_table(scored):
    return scored()


@pytest.fixture(scope="module")
def one_by_one(scored, uneven_student):
    """Five layers, a sample at a time: no split changes what a kernel is given but tensor=2."""
    return scored(model=uneven_student, micro_batch_size=1)


@pytest.fixture(scope="module")
def sequences(call, tokens, tmp_path_factory):
    """The calibration sequences, [b, s]."""
    cache = tmp_path_factory.mktemp("index")
    arguments = (tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, cache)
    rows = call("engine_cases:packed_samples", *arguments)[0]["tokens"]
    packed = (rows[:, :-1] == END_OF_DOCUMENT).any(dim=1)
    assert packed.sum() > SAMPLES / 2, "few sequences hold several documents"
    return rows


def assert_same(found: ScoreTable, expected: ScoreTable | dict[str, Any], rel: float) -> None:
    for name in ARRAYS:
        array = expected[name] if isinstance(expected, dict) else getattr(expected, name)
        np.testing.assert_allclose(getattr(found, name), array, rtol=rel, err_msg=name)


@pytest.mark.parametrize(
    "layout",
    [
        ParallelConfig(),
        ParallelConfig(tensor=2),
        ParallelConfig(pipeline=2),
        ParallelConfig(data=2),
    ],
    ids=["one process", "tensor=2", "pipeline=2", "data=2"],
)
def test_scores_agree_with_plain_transformers(scored, student, sequences, student_table, layout):
    table = student_table if layout == ParallelConfig() else scored(parallel=layout)
    expected = expected_scores(student, sequences)
    assert_same(table, expected, 1e-4)
    influence = 1 - expected["cosine"] / (SAMPLES * LENGTH)
    assert influence.min() > 1e-3  # the layers do change the stream
    np.testing.assert_allclose(table.block_influence(), influence, rtol=1e-4)
    assert (table.samples, table.tokens) == (SAMPLES, SAMPLES * LENGTH)
    assert table.model == Checkpoint.open(student).fingerprint()


def test_grouped_scores_of_another_family_agree_too(scored, make_model, sequences):
    """Llama with tied embeddings and three query heads a group."""
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True}
    model = make_model("llama", seed=5, **sizes)
    assert_same(scored(model=model), expected_scores(model, sequences), 1e-4)


@pytest.mark.parametrize(
    ("layout", "rel"),
    [
        (ParallelConfig(tensor=2), 1e-5),
        (ParallelConfig(pipeline=2), 1e-12),
        (ParallelConfig(data=2), 1e-12),
    ],
    ids=["tensor=2", "pipeline=2", "data=2"],
)
def test_scores_are_the_same_however_the_work_is_split(
    scored, one_by_one, uneven_student, layout, rel
):
    found = scored(model=uneven_student, micro_batch_size=1, parallel=layout)
    assert_same(found, one_by_one, rel)


@pytest.mark.parametrize("micro_batch_size", [1, SAMPLES])
def test_scores_are_the_same_however_samples_are_batched(scored, student_table, micro_batch_size):
    assert_same(scored(micro_batch_size=micro_batch_size), student_table, 1e-5)


def test_other_seeds_draw_other_sequences(scored, student_table):
    other = scored(seed=2)
    assert not np.allclose(other.hidden, student_table.hidden, rtol=1e-3)


def test_a_layer_that_adds_nothing_has_no_influence(scored, make_model, edit_weights):
    model = make_model(seed=6, **STUDENT)
    with edit_weights(model) as weights:
        for projection in ("self_attn.o_proj", "mlp.down_proj"):
            weights[f"model.layers.2.{projection}.weight"].zero_()
    influence = scored(model=model).block_influence()
    assert abs(influence[2]) < 1e-6
    assert np.delete(influence, 2).min() > 1e-3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 0}, "samples is 0"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"micro_batch_size": -1}, "micro_batch_size is -1"),
        ({"seed": 0}, "seed is 0"),
        ({"samples": 9, "micro_batch_size": 2}, "samples is 9; .* multiple of .* = 2"),
        ({"samples": 8, "parallel": ParallelConfig(data=3)}, "samples is 8; .* = 3"),
    ],
)
def test_bad_settings_are_one_line(tmp_path, changes, said):
    folders = {"model": tmp_path, "data": tmp_path, "output": tmp_path / "output"}
    with pytest.raises(ConfigError, match=said) as caught:
        ScoreConfig(**folders, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sequence_length": 65}, "sequence_length is 65; .*64 positions"),
        ({"parallel": ParallelConfig(tensor=3)}, r"not divisible by parallel\.tensor \(3\)"),
        ({"parallel": ParallelConfig(pipeline=5)}, r"4 layers cannot fill parallel\.pipeline"),
        ({"data": "nowhere"}, r"holds no tokens\.idx; make it with"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_a_run_that_cannot_be_is_one_line_and_leaves_nothing(
    student, tokens, tmp_path, changes, said
):
    folder = tmp_path / "folder"
    folder.mkdir()
    paths = {k: tmp_path / v for k, v in changes.items() if isinstance(v, str)}
    settings = {
        "model": student,
        "data": tokens,
        "output": folder / "output",
        "samples": 30,
        "sequence_length": LENGTH,
    }
    with pytest.raises(BielikError, match=said) as caught:
        score(ScoreConfig(**settings | changes | paths))
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
