"""Wanda against brute force, and the input norms that it reads."""

import numpy as np
import pytest
import torch

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.pruning.input_statistics import (
    INPUT_NORMS_NAME,
    InputNorms,
    input_of,
    input_sizes,
)
from nemo_bielik.pruning.sparsity import Sparsity, projections
from nemo_bielik.pruning.wanda import editor, prune_weight


def random_norms(source, seed=0):
    generator = np.random.default_rng(seed)
    return InputNorms(
        arch=source.arch,
        squares={
            name: generator.uniform(0.1, 9, (source.arch.num_layers, size))
            for name, size in input_sizes(source.arch).items()
        },
        tokens=64,
        model=source.fingerprint(),
    )


@pytest.fixture(scope="module")
def source(make_model):
    return Checkpoint.open(make_model())


@pytest.fixture
def scores(source, tmp_path):
    random_norms(source).save(tmp_path / INPUT_NORMS_NAME)
    return tmp_path


def brute_force(weight, norms, groups, zeros):
    """Zero the `zeros` lowest |w| · norm in each of `groups` column ranges of every row."""
    result = weight.clone()
    for row in range(weight.size(0)):
        for columns in groups:
            scores = {j: abs(weight[row, j].item()) * norms[j].item() for j in columns}
            for j in sorted(scores, key=scores.__getitem__)[:zeros]:
                result[row, j] = 0
    return result


@pytest.mark.parametrize(
    ("sparsity", "groups", "zeros"),
    [
        (Sparsity.parse(0.5), [range(24)], 12),
        (Sparsity.parse(0.3), [range(24)], 7),
        (Sparsity.parse(None, "2:4"), [range(j, j + 4) for j in range(0, 24, 4)], 2),
        (Sparsity.parse(None, "4:8"), [range(j, j + 8) for j in range(0, 24, 8)], 4),
    ],
    ids=["50 %", "30 %", "2:4", "4:8"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lowest_of_every_row_go(sparsity, groups, zeros, dtype):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 24, generator=generator).to(dtype)
    norms = torch.rand(24, generator=generator) * 5
    found = prune_weight(weight, norms, sparsity)
    assert torch.equal(found, brute_force(weight, norms, groups, zeros))
    assert found.dtype == dtype


def test_a_loud_input_saves_a_small_weight():
    weight = torch.tensor([[1.0, 2.0]])
    found = prune_weight(weight, torch.tensor([10.0, 1.0]), Sparsity.parse(0.5))
    assert found.tolist() == [[1, 0]]


def test_every_projection_is_judged_by_its_own_input(source, scores):
    edit = WeightEdit(arch=source.arch, method="wanda", sparsity=0.5)
    apply, table = editor(source, scores, edit), random_norms(source)
    for row in projections(source.arch):
        weight = source.read(row.name)
        norms = torch.from_numpy(np.sqrt(table.squares[input_of(row)][row.layer]))
        expected = prune_weight(weight, norms, Sparsity.parse(0.5))
        assert torch.equal(apply(row, weight), expected)
        assert (expected == 0).sum(dim=1).unique().tolist() == [round(0.5 * weight.size(1))]


def test_scores_of_another_model_are_one_line(scores, make_model):
    other = Checkpoint.open(make_model(seed=9))
    with pytest.raises(DataError, match=r"scores are of another model.*--method wanda") as caught:
        editor(other, scores, WeightEdit(arch=other.arch, method="wanda", sparsity=0.5))
    assert "\n" not in str(caught.value)


def test_a_pattern_that_does_not_fit_is_one_line(source, scores):
    edit = WeightEdit(arch=source.arch, method="wanda", sparsity=0.5, pattern="4:8")
    with pytest.raises(ConfigError, match="4:8 does not fit"):
        editor(source, scores, edit)


def test_norms_survive_the_disk_and_merge_by_addition(source, tmp_path):
    first, second = random_norms(source, 1), random_norms(source, 2)
    both = first.merge(second)
    both.save(tmp_path / "norms.safetensors")
    found = InputNorms.load(tmp_path / "norms.safetensors")
    assert (found.arch, found.model, found.tokens) == (first.arch, first.model, 128)
    for name, squares in found.squares.items():
        np.testing.assert_array_equal(squares, first.squares[name] + second.squares[name])
        np.testing.assert_array_equal(squares, second.merge(first).squares[name])


def test_norms_of_another_model_do_not_merge(source, make_model):
    other = random_norms(Checkpoint.open(make_model(seed=9)))
    with pytest.raises(DataError, match="come from different models"):
        random_norms(source).merge(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda squares: squares["qkv_proj"].fill(np.nan), "qkv_proj holds no sums of squares"),
        (lambda squares: squares["down_proj"].fill(-1), "down_proj holds no sums of squares"),
        (lambda squares: squares.update(o_proj=np.ones((4, 5))), r"o_proj has shape \(4, 5\)"),
        (
            lambda squares: squares.pop("gate_up_proj"),
            "is not a table of input norms of this version",
        ),
    ],
)
def test_damaged_norms_are_one_line(source, tmp_path, change, said):
    table = random_norms(source)
    change(table.squares)
    path = tmp_path / "norms.safetensors"
    table.save(path)
    with pytest.raises(DataError, match=said) as caught:
        InputNorms.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_norms_at_all_are_one_line(tmp_path):
    with pytest.raises(DataError, match="make one with `bielik score --method wanda`"):
        InputNorms.load(tmp_path / "nothing")
