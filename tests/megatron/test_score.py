"""Scores agree with the equations in plain transformers, however the model and text are split."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import torch
from engine_room import END_OF_DOCUMENT, STUDENT, VOCAB_SIZE, write_tokens
from score_reference import expected_scores

from nemo_bielik.artifacts import SCORES_NAME, PruningPlan, ScoreTable
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import BielikError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.score import ScoreConfig, score
from nemo_bielik.pruning.select import select
from nemo_bielik.stages import work_directory

SCORE = "nemo_bielik.pruning.score:score"
LENGTH, SAMPLES = 32, 8
LONG = {"samples": 256, "sequence_length": 16, "micro_batch_size": 1}
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
def whole(scored, uneven_student):
    """Five layers in one process; no split but tensor=2 changes what a kernel is given."""
    return scored(model=uneven_student)


@pytest.fixture(scope="module")
def exact(scored, uneven_student):
    """The same in float64, where rounding does not hide a mistake."""
    return scored(model=uneven_student, precision="fp64")


@pytest.fixture(scope="module")
def sequences(call, tokens, tmp_path_factory):
    """The calibration sequences, [b, s]."""
    cache = tmp_path_factory.mktemp("index")
    arguments = (tokens, SAMPLES, LENGTH, 1, VOCAB_SIZE, cache)
    rows = call("engine_cases:packed_samples", *arguments)[0]["tokens"]
    packed = (rows[:, :-1] == END_OF_DOCUMENT).any(dim=1)
    assert packed.sum() > SAMPLES / 2, "few sequences hold several documents"
    return rows


def plans(table: ScoreTable) -> list[PruningPlan]:
    """What is kept of the uneven student along every axis."""
    targets = (
        {"num_layers": 3, "hidden_size": 17, "ffn_hidden_size": 11},
        {"num_attention_heads": 2, "num_query_groups": 2},
        {"num_attention_heads": 2, "num_query_groups": 1, "num_layers": 4},
    )
    importance = from_table(table)
    return [select(importance, table.arch.replace(**target)) for target in targets]


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


SPLITS = pytest.mark.parametrize(
    ("layout", "rel"),
    [
        (ParallelConfig(tensor=2), 1e-5),
        (ParallelConfig(pipeline=2), 1e-12),
        (ParallelConfig(data=2), 1e-12),
    ],
    ids=["tensor=2", "pipeline=2", "data=2"],
)


@SPLITS
def test_scores_and_plan_are_the_same_however_the_work_is_split(
    scored, whole, uneven_student, layout, rel
):
    found = scored(model=uneven_student, parallel=layout)
    assert_same(found, whole, rel)
    assert plans(found) == plans(whole)


def test_tensor_parallel_scores_are_exact_where_rounding_is_not_in_the_way(
    scored, exact, whole, uneven_student
):
    layout = ParallelConfig(tensor=2)
    assert_same(scored(model=uneven_student, precision="fp64", parallel=layout), exact, 1e-9)
    assert_same(whole, exact, 1e-4)  # it did compute in another precision
    assert not np.allclose(whole.hidden, exact.hidden, rtol=1e-9)


def test_sequence_shards_are_reduced_before_they_are_squared(call, student):
    """By hand over the whole sequence, of which each rank saw a half."""
    arch = Checkpoint.open(student).arch.replace(num_layers=1)
    widths = {"entering": 24, "attention_norm": 24, "mlp_norm": 24, "leaving": 24}
    widths |= {"heads": arch.num_attention_heads * arch.head_dim, "ffn": arch.ffn_hidden_size}
    generator = torch.Generator().manual_seed(1)
    seen = {
        name: torch.randn(LENGTH, 3, width, dtype=torch.float64, generator=generator)
        for name, width in widths.items()
    }
    squares = {name: value.abs().mean(dim=0).square().sum(dim=0) for name, value in seen.items()}
    products = (seen["entering"] * seen["leaving"]).sum(dim=-1)
    lengths = seen["entering"].norm(dim=-1) * seen["leaving"].norm(dim=-1)
    expected = {
        "hidden": torch.stack([squares["attention_norm"], squares["mlp_norm"]]),
        "ffn": squares["ffn"].unsqueeze(0),
        "heads": squares["heads"].view(1, arch.num_attention_heads, -1).sum(dim=2),
        "cosine": (products / lengths).sum().unsqueeze(0),
    }
    layout = ParallelConfig(tensor=2)
    for found in call("score_cases:sums_of_shards", arch, seen, parallel=layout):
        for name in ARRAYS:
            np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=1e-12)


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


# --- stopped and continued


@pytest.fixture(scope="module")
def long_settings(student, tokens, tmp_path_factory):
    """Micro-batches enough to be stopped among them: parts end after 64, 128, 192 and 256."""
    output = tmp_path_factory.mktemp("long") / "output"
    return {"model": student, "data": tokens, "output": output} | LONG


@pytest.fixture(scope="module")
def killed(long_settings):
    """The work of a run that was killed outright, once it had kept something."""
    output, work = long_settings["output"], work_directory(long_settings["output"])
    words = [f"--{name}={long_settings[name]}" for name in ("model", "data", "output")]
    words += [f"{name}={value}" for name, value in LONG.items()]
    command = [sys.executable, "-W", "ignore", "-m", "nemo_bielik", "score", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    try:
        while not (work / SCORES_NAME).is_file():
            assert process.poll() is None and time.monotonic() < deadline, "kept nothing"
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=60)[0]
    assert not output.exists(), said
    shutil.copytree(work, work.with_name("killed"))
    return work.with_name("killed")


@pytest.fixture(scope="module")
def undisturbed(scored):
    return scored(**LONG)


@pytest.fixture
def continued(lanes, long_settings, killed):
    """Return a function that runs the killed command again, with some settings changed."""
    output = long_settings["output"]
    work = work_directory(output)
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(killed, work)

    def run(**changes: Any) -> ScoreTable:
        lanes.run(SCORE, ScoreConfig(**long_settings | changes))
        return ScoreTable.load(output / SCORES_NAME)

    yield run
    shutil.rmtree(output, ignore_errors=True)


def test_a_killed_run_continues_bit_for_bit(continued, killed, undisturbed):
    kept = ScoreTable.load(killed / SCORES_NAME)
    assert kept.samples < undisturbed.samples
    found = continued()
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(undisturbed, name)), name
    assert (found.samples, found.tokens) == (undisturbed.samples, undisturbed.tokens)


def test_a_killed_run_continues_on_another_layout(continued, long_settings, killed, undisturbed):
    path = work_directory(long_settings["output"]) / SCORES_NAME
    kept = ScoreTable.load(path)
    dataclasses.replace(kept, ffn=kept.ffn + 1).save(path)  # shows that it is not computed again
    found = continued(parallel=ParallelConfig(data=2))
    assert_same(dataclasses.replace(found, ffn=found.ffn - 1), undisturbed, 1e-12)
    assert found.samples == undisturbed.samples


def test_the_unfinished_work_of_another_recipe_is_refused(continued, killed, long_settings):
    with pytest.raises(StorageError, match="another seed, setting seed; remove it") as caught:
        continued(seed=2)
    assert "\n" not in str(caught.value)
    assert not long_settings["output"].exists()


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


def test_text_shorter_than_a_sequence_is_one_line(student, tmp_path):
    """It would be repeated within the sequence."""
    short = write_tokens(tmp_path / "short", [[1, *range(3, 25), END_OF_DOCUMENT]])
    config = ScoreConfig(
        model=student, data=short, output=tmp_path / "output", samples=2, sequence_length=LENGTH
    )
    with pytest.raises(
        DataError, match="holds 24 tokens, too few for one sequence of 32"
    ) as caught:
        score(config)
    assert "\n" not in str(caught.value)
    assert not config.output.exists()
