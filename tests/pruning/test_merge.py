"""Merged tables are sums: in any order, by weight, of one model only."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.arch import ModelArch
from nemo_bielik.artifacts import SCORES_NAME, ScoreTable
from nemo_bielik.errors import BielikError, ConfigError, DataError, StorageError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.input_statistics import INPUT_NORMS_NAME, InputNorms, input_sizes
from nemo_bielik.pruning.merge import MergeConfig, merge, merge_norms, merge_scores, merge_tables

ARCH = ModelArch(
    name="small",
    vocab_size=16,
    hidden_size=4,
    ffn_hidden_size=6,
    num_layers=3,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
)
ARRAYS = ("hidden", "ffn", "heads", "cosine")


def table(seed: int, samples: int = 8, length: int = 4) -> ScoreTable:
    """Random sums over `samples`, of very different sizes."""
    generator = np.random.default_rng(seed)
    shapes = {"hidden": (6, 4), "ffn": (3, 6), "heads": (3, 4), "cosine": (3,)}
    arrays = {
        name: samples * 10.0 ** generator.uniform(-8, 8, shape) for name, shape in shapes.items()
    }
    return ScoreTable(arch=ARCH, samples=samples, tokens=samples * length, model="one", **arrays)


def assert_close(found: ScoreTable, expected: ScoreTable, rel: float = 1e-12) -> None:
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=rel)
    assert (found.samples, found.tokens) == (expected.samples, expected.tokens)


def assert_identical(found: ScoreTable, expected: ScoreTable) -> None:
    for name in ARRAYS:
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert (found.samples, found.tokens) == (expected.samples, expected.tokens)


def norms(seed: int, tokens: int) -> InputNorms:
    """Random sums of squares over `tokens`, of very different sizes."""
    generator = np.random.default_rng(seed)
    squares = {
        name: tokens * 10.0 ** generator.uniform(-8, 8, (3, size))
        for name, size in input_sizes(ARCH).items()
    }
    return InputNorms(arch=ARCH, squares=squares, tokens=tokens, model="one")


def assert_same_norms(found: InputNorms, squares: dict, tokens: int) -> None:
    assert found.squares.keys() == squares.keys()
    for name, expected in squares.items():
        np.testing.assert_allclose(found.squares[name], expected, rtol=1e-12, err_msg=name)
    assert found.tokens == tokens


@st.composite
def tables(draw: st.DrawFn, least: int = 1) -> list[ScoreTable]:
    sizes = draw(st.lists(st.integers(1, 1000), min_size=least, max_size=6))
    seed = draw(st.integers(0, 2**20))
    return [
        table(seed + number, samples, length=1 + number) for number, samples in enumerate(sizes)
    ]


@given(parts=tables(), data=st.data())
@settings(deadline=None)
def test_the_order_of_the_tables_changes_not_a_bit(parts, data):
    shuffled = data.draw(st.permutations(parts))
    assert_identical(merge_tables(shuffled), merge_tables(parts))


@given(parts=tables(least=3), data=st.data())
@settings(deadline=None)
def test_merging_is_associative(parts, data):
    cut = data.draw(st.integers(1, len(parts) - 1))
    nested = merge_tables([merge_tables(parts[:cut]), merge_tables(parts[cut:])])
    assert_close(nested, merge_tables(parts))


@given(parts=tables(least=2), data=st.data())
@settings(deadline=None)
def test_weights_go_with_their_tables_whatever_the_order(parts, data):
    drawn = data.draw(st.lists(st.floats(0.01, 1), min_size=len(parts), max_size=len(parts)))
    weights = [weight / math.fsum(drawn) for weight in drawn]
    order = data.draw(st.permutations(range(len(parts))))
    shuffled = merge_tables([parts[i] for i in order], [weights[i] for i in order])
    assert_identical(shuffled, merge_tables(parts, weights))


@given(parts=tables())
@settings(deadline=None)
def test_shares_of_the_samples_as_weights_are_no_weights_at_all(parts):
    total = sum(part.samples for part in parts)
    parts = [dataclasses.replace(part, tokens=3 * part.samples) for part in parts]
    weighted = merge_tables(parts, [part.samples / total for part in parts])
    assert_close(weighted, merge_tables(parts))


@pytest.mark.parametrize("weights", [[], [1.0]])
def test_one_table_comes_back_as_it_is(weights):
    assert_identical(merge_tables([table(1)], weights), table(1))


def test_weights_by_hand():
    """30 % of a table of 10 samples and 70 % of one of 40: factors 0.3 · 50 / 10, 0.7 · 50 / 40."""
    a, b = table(1, samples=10, length=2), table(2, samples=40, length=8)  # 20 and 320 tokens
    merged = merge_tables([a, b], [0.3, 0.7])
    for name in ("hidden", "ffn", "heads"):
        expected = 1.5 * getattr(a, name) + 0.875 * getattr(b, name)
        np.testing.assert_allclose(getattr(merged, name), expected, rtol=1e-14)
    np.testing.assert_allclose(merged.cosine, 5.1 * a.cosine + 0.74375 * b.cosine, rtol=1e-14)
    assert (merged.samples, merged.tokens) == (50, 340)


def test_a_weighted_choice_is_that_of_a_calibration_set_in_those_shares():
    """Repeating a language's text until it has its share changes the sums alike."""
    polish, english = table(1, samples=10), table(2, samples=40)
    repeated = merge_tables([polish] * 12 + [english])  # 120 and 40 samples: shares 0.75, 0.25
    weighted = merge_tables([polish, english], [0.75, 0.25])
    for name in ("hidden", "ffn", "heads"):
        np.testing.assert_allclose(
            getattr(weighted, name) / weighted.samples,
            getattr(repeated, name) / repeated.samples,
            rtol=1e-12,
        )
    np.testing.assert_allclose(weighted.block_influence(), repeated.block_influence(), rtol=1e-12)


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=5),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
@settings(deadline=None)
def test_merging_norms_is_associative_and_commutative(sizes, seed, data):
    parts = [norms(seed + number, tokens) for number, tokens in enumerate(sizes)]
    whole = merge_norms(parts)
    cut = data.draw(st.integers(1, len(parts) - 1))
    nested = merge_norms([merge_norms(parts[:cut]), merge_norms(parts[cut:])])
    assert_same_norms(nested, whole.squares, sum(sizes))
    assert_same_norms(merge_norms(data.draw(st.permutations(parts))), whole.squares, sum(sizes))


def test_norms_by_hand_with_and_without_weights():
    """30 % of 10 tokens and 70 % of 40: factors 0.3 · 50 / 10 and 0.7 · 50 / 40."""
    a, b = norms(1, 10), norms(2, 40)
    added = {name: a.squares[name] + b.squares[name] for name in a.squares}
    assert_same_norms(merge_norms([a, b]), added, 50)
    weighted = {name: 1.5 * a.squares[name] + 0.875 * b.squares[name] for name in a.squares}
    assert_same_norms(merge_norms([a, b], [0.3, 0.7]), weighted, 50)
    assert_same_norms(merge_norms([a], [1.0]), a.squares, 10)


@pytest.fixture
def directories(tmp_path):
    """Score directories of 10 and of 40 samples."""
    made = []
    for number, samples in enumerate((10, 40)):
        directory = tmp_path / f"scores{number}"
        directory.mkdir()
        table(number, samples).save(directory / SCORES_NAME)
        made.append(directory)
    return made


def test_the_output_says_what_it_was_merged_of(directories, tmp_path, capsys):
    output = tmp_path / "merged"
    merge(MergeConfig(merge=directories, weights=[1.4, 0.6], output=output))
    tables = [ScoreTable.load(directory / SCORES_NAME) for directory in directories]
    assert_close(ScoreTable.load(output / SCORES_NAME), merge_tables(tables, [0.7, 0.3]))
    manifest = Manifest.load(output)
    assert manifest.config["weights"] == pytest.approx([0.7, 0.3])
    assert manifest.inputs == {str(path): file_sha256(path / SCORES_NAME) for path in directories}
    assert manifest.results["samples"] == 50
    said = "activations of 2 directories, 50 samples, 200 tokens, weights 0.7, 0.3"
    assert capsys.readouterr().out == f"{output}: {said}\n"


def test_directories_of_input_norms_become_one(tmp_path, capsys):
    parts = [norms(1, 1000), norms(2, 4000)]
    folders = [tmp_path / "polish", tmp_path / "english"]
    for part, folder in zip(parts, folders, strict=True):
        folder.mkdir()
        part.save(folder / INPUT_NORMS_NAME)
    for weights, told in (([], "without weights"), ([3.0, 1.0], "weights 0.75, 0.25")):
        output = tmp_path / told
        merge(MergeConfig(merge=folders, weights=weights, output=output))
        expected = merge_norms(parts, [0.75, 0.25] if weights else [])
        found = InputNorms.load(output / INPUT_NORMS_NAME)
        assert_same_norms(found, expected.squares, 5000)
        assert Manifest.load(output).results == {"tokens": 5000}
        said = f"input-norms of 2 directories, 5,000 tokens, {told}"
        assert capsys.readouterr().out == f"{output}: {said}\n"


def test_the_same_merge_again_leaves_its_output_and_another_is_refused(directories, tmp_path):
    output = tmp_path / "merged"
    merge_scores(directories, [], output)
    before = (output / SCORES_NAME).stat().st_mtime_ns
    merge_scores(directories, [], output)
    assert (output / SCORES_NAME).stat().st_mtime_ns == before
    with pytest.raises(StorageError, match="another setting weights"):
        merge_scores(directories, [0.5, 0.5], output)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([1.0], "1 weights for 2 score directories"),
        ([0.5, 0.0], "weight 0.0 is not a finite number above 0"),
        ([0.5, -1.0], "weight -1.0 is not"),
        ([0.5, math.nan], "weight nan is not"),
        ([0.5, math.inf], "weight inf is not"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(directories, tmp_path, weights, said):
    assert_refused(ConfigError, said, directories, weights, tmp_path)


def test_no_directories_are_one_line(tmp_path):
    assert_refused(ConfigError, "name at least one directory", [], [], tmp_path)


def test_a_directory_named_twice_is_one_line(directories, tmp_path):
    assert_refused(DataError, "scores0: .* twice", [*directories, directories[0]], [], tmp_path)


def test_a_directory_without_scores_is_one_line(directories, tmp_path):
    (directories[1] / SCORES_NAME).unlink()
    assert_refused(DataError, "scores1: holds no scores; make some", directories, [], tmp_path)


def test_input_norms_of_another_model_are_one_line(tmp_path):
    folders = [tmp_path / "scores0", tmp_path / "scores1"]
    for folder, model in zip(folders, ("one", "two"), strict=True):
        folder.mkdir()
        dataclasses.replace(norms(1, 10), model=model).save(folder / INPUT_NORMS_NAME)
    said = "scores1: holds scores of another model than .*scores0"
    assert_refused(DataError, said, folders, [], tmp_path)


def test_scores_of_different_kinds_are_one_line(directories, tmp_path):
    (directories[1] / SCORES_NAME).unlink()
    norms(1, 10).save(directories[1] / INPUT_NORMS_NAME)
    said = "scores1: holds input-norms where .*scores0 holds activations"
    assert_refused(DataError, said, directories, [], tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("hessians.json", "scores0: hessians are sums, but too large .*; score once"),
        ("taylor.safetensors", "scores0: gradients do not merge: .*absolute value.*; score once"),
        ("masks.safetensors", "scores0: masks do not merge: .* learn them once"),
    ],
)
def test_what_does_not_merge_is_one_line(directories, tmp_path, file, said):
    for directory in directories:
        (directory / SCORES_NAME).rename(directory / file)
    assert_refused(DataError, said, directories, [], tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"model": "two"}, {"arch": ARCH.replace(rope_theta=5.0)}],
    ids=["other weights", "other shape"],
)
def test_scores_of_another_model_are_one_line(directories, tmp_path, changes):
    other = dataclasses.replace(table(1), **changes)
    other.save(directories[1] / SCORES_NAME)
    said = "scores1: holds scores of another model than .*scores0"
    assert_refused(DataError, said, directories, [], tmp_path)


def assert_refused(
    kind: type[BielikError], said: str, directories: list, weights: list, folder
) -> None:
    with pytest.raises(kind, match=said) as caught:
        merge_scores(directories, weights, folder / "merged")
    assert "\n" not in str(caught.value)
    assert not (folder / "merged").exists()
