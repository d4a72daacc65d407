"""Score tables merge like sums, artifacts survive the disk, damaged ones are named."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import PruningPlan, ScoreTable
from nemo_bielik.errors import DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.select import keep_everything

ARCH = ModelArch(
    name="artifact",
    vocab_size=8,
    hidden_size=4,
    ffn_hidden_size=6,
    num_layers=3,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
ARRAYS = ("hidden", "ffn", "heads", "cosine")


def same(left, right):
    counts = [(table.samples, table.tokens, table.model, table.arch) for table in (left, right)]
    return counts[0] == counts[1] and all(
        np.allclose(getattr(left, name), getattr(right, name), rtol=1e-12) for name in ARRAYS
    )


@settings(max_examples=20, deadline=None)
@given(seeds=st.tuples(*[st.integers(0, 999)] * 3))
def test_merging_is_associative_and_commutative(random_scores, seeds):
    a, b, c = (random_scores(ARCH, "m", seed) for seed in seeds)
    assert same(a.merge(b), b.merge(a))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert a.merge(b).samples == 16


def test_merging_a_table_with_itself_changes_no_influence(random_scores):
    table = random_scores(ARCH, "m")
    np.testing.assert_allclose(table.merge(table).block_influence(), table.block_influence())


def test_tables_of_different_models_do_not_merge(random_scores):
    with pytest.raises(DataError, match="different models"):
        random_scores(ARCH, "one").merge(random_scores(ARCH, "two"))


def test_block_influence_is_one_minus_the_mean_cosine(random_scores):
    table = replace(random_scores(ARCH), cosine=np.array([10.0, 5.0, -10.0]), tokens=10)
    np.testing.assert_allclose(table.block_influence(), [0.0, 0.5, 2.0])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999))
def test_a_table_survives_the_disk(random_scores, tmp_path_factory, seed):
    table = random_scores(ARCH, "fingerprint", seed)
    path = tmp_path_factory.mktemp("scores") / "scores.safetensors"
    table.save(path)
    loaded = ScoreTable.load(path)
    assert loaded.arch == ARCH
    assert (loaded.samples, loaded.tokens, loaded.model) == (8, 64, "fingerprint")
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(loaded, name), getattr(table, name))
        assert getattr(loaded, name).dtype == np.float64


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden": np.ones((3, 4))}, "hidden has shape"),
        ({"ffn": np.full((3, 6), np.nan)}, "ffn holds NaN"),
        ({"heads": -np.ones((3, 4))}, "heads holds negative"),
        ({"samples": 0}, "covers 0 samples"),
        ({"tokens": 0}, "0 tokens"),
    ],
)
def test_impossible_scores_are_refused(random_scores, changes, words):
    with pytest.raises(DataError, match=words):
        replace(random_scores(ARCH), **changes)


def test_a_missing_table_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(DataError, match="bielik score"):
        ScoreTable.load(tmp_path / "scores.safetensors")


def table_file(path, version=1, arch=None, **arrays):
    metadata = {"version": version, "samples": 1, "tokens": 1, "model": ""}
    metadata["arch"] = asdict(ARCH) if arch is None else arch
    save_file(arrays, path, metadata={"score_table": json.dumps(metadata)})


def test_damaged_tables_are_one_line(tmp_path):
    path = tmp_path / "scores.safetensors"
    damages = [
        lambda: path.write_bytes(b"nonsense"),
        lambda: save_file({"a": np.ones(1)}, path),
        lambda: table_file(path, version=9, a=np.ones(1)),
        lambda: table_file(path, colour=np.ones(1)),
        lambda: table_file(path, arch={"name": "?"}, cosine=np.ones(1)),
        lambda: table_file(path, arch={**asdict(ARCH), "head_dim": 3}, cosine=np.ones(1)),
    ]
    for damage in damages:
        damage()
        with pytest.raises(DataError) as caught:
            ScoreTable.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_plan_survives_the_disk(tmp_path):
    plan = keep_everything(ARCH, "fingerprint")
    plan.save(tmp_path / "plan.json")
    assert PruningPlan.load(tmp_path / "plan.json") == plan


@pytest.mark.parametrize("damage", ["{", "[]", '{"version": 2}', '{"version": 1, "layers": []}'])
def test_a_damaged_plan_is_one_line(tmp_path, damage):
    path = tmp_path / "plan.json"
    path.write_text(damage)
    with pytest.raises(DataError) as caught:
        PruningPlan.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_is_decided_by_what_decides_the_output(tmp_path):
    manifest = Manifest(stage="score", config={"path": tmp_path, "sizes": (1, 2)}, seed=1)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path).recipe() == manifest.recipe()
    assert replace(manifest, wall_seconds=9.0, results={"a": 1}).recipe() == manifest.recipe()
    assert replace(manifest, seed=2).recipe() != manifest.recipe()
    assert replace(manifest, inputs={"model": "x"}).recipe() != manifest.recipe()
