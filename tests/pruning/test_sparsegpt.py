"""SparseGPT against least squares, a sweep that inverts every remainder, and the other methods."""

import json

import pytest
import torch
from safetensors.torch import save_file

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.pruning import magnitude, wanda
from nemo_bielik.pruning.input_statistics import (
    HESSIANS_NAME,
    Hessians,
    hessian_bytes,
    hessian_file,
    input_of,
    input_sizes,
)
from nemo_bielik.pruning.sparsegpt import (
    DAMPING,
    editor,
    inverse_factor,
    prune_weight,
    zeros_of,
)
from nemo_bielik.pruning.sparsity import Sparsity, projections

PATTERNS = [Sparsity.parse(0.5), Sparsity.parse(None, "2:4"), Sparsity.parse(None, "4:8")]
NAMES = ["50 %", "2:4", "4:8"]


def layer(seed, outputs=6, inputs=16, tokens=64):
    """Weights [out, in] and correlated inputs of unequal size, [in, tokens], in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    mixing = normal(inputs, inputs) / inputs**0.5 + torch.eye(inputs)
    sizes = torch.exp(normal(inputs, 1))
    return normal(outputs, inputs), sizes * (mixing @ normal(inputs, tokens))


def damped(hessian, damping):
    return hessian + damping * hessian.diagonal().mean() * torch.eye(
        len(hessian), dtype=hessian.dtype
    )


# --- one weight


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("column", [0, 1, 9, 15])
@pytest.mark.parametrize("seed", range(3))
def test_removing_one_weight_is_the_least_squares_answer(seed, column, damping):
    """Columns before it are fixed when its turn comes; those behind it are refitted.

    Damping is a row of zeros but for one √λ a weight, which calls for the original's values.
    """
    weight, inputs = layer(seed, outputs=1)
    weight[0, column] *= 1e-4  # the one that goes
    hessian = inputs @ inputs.T
    found = prune_weight(weight, hessian, Sparsity.parse(1 / 16), damping)

    root = (damping * hessian.diagonal().mean()) ** 0.5
    seen = torch.cat([inputs, root * torch.eye(16, dtype=root.dtype)], dim=1)  # [in, tokens + in]
    missing = (weight[:, column:] @ seen[column:]).T  # what the rest must now add up to
    refitted = torch.linalg.lstsq(seen[column + 1 :].T, missing).solution.T
    assert found[0, column] == 0
    assert torch.equal(found[:, :column], weight[:, :column])
    torch.testing.assert_close(found[:, column + 1 :], refitted, rtol=1e-11, atol=1e-13)
    closed_form = torch.linalg.inv(damped(hessian, damping)[column:, column:])
    update = -weight[:, column] / closed_form[0, 0] * closed_form[0]
    torch.testing.assert_close(
        found[0, column + 1 :], weight[0, column + 1 :] + update[1:], rtol=1e-11, atol=1e-13
    )


# --- the whole sweep


def naive_sweep(weight, hessian, sparsity, block):
    """The same by inverting what is left of H before every column, a row at a time."""
    weight, columns = weight.clone(), weight.size(1)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    together = sparsity.m or block
    for j in range(columns):
        if j % together == 0:
            span = range(j, min(j + together, columns))
            costs = {
                (i, k): (weight[i, k] ** 2 / inverses[k][0, 0]).item()
                for i in range(len(weight))
                for k in span
            }
            gone = set()
            for rows in [[i] for i in range(len(weight))] if sparsity.m else [range(len(weight))]:
                places = sorted((i, k) for i, k in costs if i in rows)
                count = round(sparsity.ratio * len(places))
                gone |= set(sorted(places, key=costs.__getitem__)[:count])
        for i in range(len(weight)):
            if (i, j) in gone:
                row = inverses[j][0]
                weight[i, j:] -= weight[i, j] / row[0] * row
                weight[i, j] = 0
    return weight


@pytest.mark.parametrize("sparsity", [*PATTERNS, Sparsity.parse(0.3)], ids=[*NAMES, "30 %"])
@pytest.mark.parametrize("block", [1, 8, 12, 128])
def test_the_sweep_is_that_of_inverting_every_remainder(sparsity, block):
    weight, inputs = layer(4, outputs=5, inputs=24)
    hessian = inputs @ inputs.T
    found = prune_weight(weight, hessian, sparsity, block=block)
    expected = naive_sweep(weight, damped(hessian, DAMPING), sparsity, block)
    assert torch.equal(found == 0, expected == 0)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_factor_is_the_upper_cholesky_factor_of_the_inverse():
    _, inputs = layer(5)
    hessian = inputs @ inputs.T
    upper = inverse_factor(hessian, 0.01).upper
    assert torch.equal(upper, upper.triu())
    assert (upper.diagonal() > 0).all()
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped(hessian, 0.01)))


@pytest.mark.parametrize("sparsity", PATTERNS, ids=NAMES)
def test_the_error_is_below_wandas_and_that_below_magnitudes(sparsity):
    """‖WX − ŴX‖², averaged over 20 layers, relative to ‖WX‖²."""
    errors = {"sparsegpt": 0.0, "wanda": 0.0, "magnitude": 0.0}
    for seed in range(20):
        weight, inputs = layer(seed, outputs=32, inputs=64, tokens=512)
        for name, pruned in {
            "sparsegpt": prune_weight(weight, inputs @ inputs.T, sparsity),
            "wanda": wanda.prune_weight(weight, inputs.norm(dim=1), sparsity),
            "magnitude": magnitude.prune_weight(weight, sparsity),
        }.items():
            assert (pruned == 0).sum() == weight.numel() // 2
            lost = ((weight - pruned) @ inputs).square().sum() / (weight @ inputs).square().sum()
            errors[name] += lost.item() / 20
    assert errors["sparsegpt"] < 0.8 * errors["wanda"]
    assert errors["wanda"] < 0.8 * errors["magnitude"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("block", [3, 8, 10, 128])
@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("4:8", 4, 8)])
def test_patterns_hold_exactly(dtype, block, pattern, n, m):
    weight, inputs = layer(6, inputs=24)
    hessian = (inputs @ inputs.T).float()
    found = prune_weight(weight.to(dtype), hessian, Sparsity.parse(None, pattern), block=block)
    assert found.dtype == dtype
    assert ((found != 0).view(-1, m).sum(dim=1) == n).all()


def test_every_block_loses_exactly_its_share():
    weight, inputs = layer(7, inputs=24)
    found = prune_weight(weight, inputs @ inputs.T, Sparsity.parse(0.3), block=10)
    zeros = [(part == 0).sum().item() for part in found.split(10, dim=1)]
    assert zeros == [18, 18, round(0.3 * 24)]


@pytest.mark.parametrize("ratio", [0.5, 0.37])
@pytest.mark.parametrize("inputs", [100, 128, 300])
def test_the_number_of_zeros_is_known_beforehand(ratio, inputs):
    weight, activations = layer(12, outputs=7, inputs=inputs, tokens=400)
    sparsity = Sparsity.parse(ratio)
    found = prune_weight(weight, activations @ activations.T, sparsity)
    assert int((found == 0).sum()) == zeros_of((7, inputs), sparsity)


def test_the_weights_given_are_left_alone():
    weight, inputs = layer(8)
    hessian = inputs @ inputs.T
    copies = weight.clone(), hessian.clone()
    prune_weight(weight, hessian, Sparsity.parse(0.5))
    assert torch.equal(weight, copies[0])
    assert torch.equal(hessian, copies[1])


def test_inputs_that_are_always_zero_lose_their_weights_and_change_no_other():
    weight, inputs = layer(9)
    dead = [0, 5, 11]
    inputs[dead] = 0
    found = prune_weight(weight, inputs @ inputs.T, Sparsity.parse(3 / 16))
    assert (found == 0).nonzero()[:, 1].unique().tolist() == dead
    alive = [j for j in range(16) if j not in dead]
    assert torch.equal(found[:, alive], weight[:, alive])


# --- what cannot be done


@pytest.mark.parametrize(
    ("hessian", "damping"),
    [
        (torch.zeros(4, 4), 0.01),
        (-torch.eye(4), 0.01),
        (torch.ones(4, 4), 0.0),
        (torch.full((4, 4), torch.nan), 0.01),
        (torch.diag(torch.tensor([1.0, 1.0, 1.0, -0.1])), 0.01),
    ],
    ids=["zero", "negative", "one direction, no damping", "NaN", "damping too small"],
)
def test_a_hessian_that_is_not_positive_definite_is_one_line(hessian, damping):
    with pytest.raises(
        DataError,
        match=r"not positive definite.*more calibration samples, or raise the damping, e.g. "
        rf"--damping {0.1 if damping else 0.01}$",
    ) as caught:
        prune_weight(torch.ones(2, 4), hessian, Sparsity.parse(0.5), damping)
    assert "\n" not in str(caught.value)


def test_damping_makes_up_for_few_samples():
    """Fewer tokens than inputs: H alone is singular."""
    weight, inputs = layer(10, tokens=4)
    found = prune_weight(weight.float(), (inputs @ inputs.T).float(), Sparsity.parse(0.5))
    assert torch.isfinite(found).all()


# --- a model's Hessians


@pytest.fixture(scope="module")
def source(make_model):
    return Checkpoint.open(make_model())


@pytest.fixture
def scores(source, tmp_path):
    hashes = []
    for number in range(source.arch.num_layers):
        matrices = {}
        for place, (name, size) in enumerate(input_sizes(source.arch).items()):
            _, inputs = layer(100 * number + place, inputs=size)
            matrices[name] = (inputs @ inputs.T).float()
        save_file(matrices, tmp_path / hessian_file(number))
        hashes.append(file_sha256(tmp_path / hessian_file(number)))
    shared = {"arch": source.arch, "model": source.fingerprint(), "directory": tmp_path}
    Hessians(layers=hashes, tokens=64, **shared).save()
    return tmp_path


def edit_of(source, **settings):
    return WeightEdit(arch=source.arch, method="sparsegpt", **{"sparsity": 0.5} | settings)


def test_every_projection_is_pruned_by_its_own_input(source, scores):
    apply, hessians = editor(source, scores, edit_of(source)), Hessians.load(scores)
    assert hessians.tokens == 64
    for row in projections(source.arch):
        weight, hessian = source.read(row.name), hessians.read(row.layer, input_of(row))
        assert hessian.shape == (row.shape[1], row.shape[1])
        found = apply(row, weight)
        assert torch.equal(found, prune_weight(weight, hessian, Sparsity.parse(0.5)))
        assert found.dtype == weight.dtype


def test_the_damping_is_that_of_the_edit(source, scores):
    apply, hessians = editor(source, scores, edit_of(source, damping=0.4)), Hessians.load(scores)
    row = projections(source.arch)[0]
    weight, hessian = source.read(row.name), hessians.read(row.layer, input_of(row))
    found = apply(row, weight)
    assert torch.equal(found, prune_weight(weight, hessian, Sparsity.parse(0.5), 0.4))
    assert not torch.equal(found, prune_weight(weight, hessian, Sparsity.parse(0.5)))


def test_the_bytes_of_the_matrices_are_known_beforehand(source, scores):
    hessians = Hessians.load(scores)
    assert hessian_bytes(source.arch) == sum(
        hessians.read(number, name).nbytes
        for number in range(source.arch.num_layers)
        for name in input_sizes(source.arch)
    )


def test_a_layer_that_is_damaged_or_missing_is_one_line(source, scores):
    apply = editor(source, scores, edit_of(source))
    rows = [row for row in projections(source.arch) if row.name.endswith("q_proj.weight")]
    path = scores / hessian_file(1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (scores / hessian_file(2)).unlink()
    apply(rows[0], source.read(rows[0].name))
    for number in (1, 2):
        with pytest.raises(DataError, match="missing or was changed since") as caught:
            apply(rows[number], source.read(rows[number].name))
        assert hessian_file(number) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_layer_without_information_is_named(source, scores):
    number, name = 3, "o_proj"
    matrices = {key: torch.zeros(size, size) for key, size in input_sizes(source.arch).items()}
    save_file(matrices, scores / hessian_file(number))
    listed = Hessians.load(scores)
    listed.layers[number] = file_sha256(scores / hessian_file(number))
    listed.save()
    row = next(r for r in projections(source.arch) if r.layer == number and name in r.name)
    with pytest.raises(DataError, match="layer 3, o_proj: the Hessian of its inputs is not"):
        editor(source, scores, edit_of(source))(row, source.read(row.name))


def test_scores_of_another_model_are_one_line(scores, make_model):
    other = Checkpoint.open(make_model(seed=9))
    with pytest.raises(DataError, match=r"scores are of another model.*--method sparsegpt"):
        editor(other, scores, edit_of(other))


def test_a_pattern_that_does_not_fit_is_one_line(source, scores):
    with pytest.raises(ConfigError, match="4:8 does not fit"):
        editor(source, scores, edit_of(source, pattern="4:8"))


def test_a_list_of_too_few_layers_is_one_line(scores):
    path = scores / HESSIANS_NAME
    listed = json.loads(path.read_text())
    path.write_text(json.dumps(listed | {"layers": listed["layers"][1:]}))
    with pytest.raises(DataError, match="lists 3 layers where the model has 4; score again"):
        Hessians.load(scores)


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"version": 1, "arch": {}}'])
def test_a_list_that_is_none_is_one_line(scores, content):
    (scores / HESSIANS_NAME).write_text(content)
    with pytest.raises(DataError, match=HESSIANS_NAME) as caught:
        Hessians.load(scores)
    assert "\n" not in str(caught.value)
