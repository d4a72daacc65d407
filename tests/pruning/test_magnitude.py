"""Magnitude pruning against brute force, within a matrix and over a whole model."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning import sparsity
from nemo_bielik.pruning.magnitude import editor, prune_weight
from nemo_bielik.pruning.sparsity import Sparsity, projections


def lowest(values, count):
    """The places of the `count` smallest; of equal ones the last go first."""
    order = sorted(range(len(values)), key=lambda place: (values[place], -place))
    return set(order[:count])


def edited(directory, **settings):
    """Every projection before and after, in the table's order."""
    source = Checkpoint.open(directory)
    edit = WeightEdit(arch=source.arch, method="magnitude", **settings)
    apply = editor(source, None, edit)
    rows = projections(source.arch)
    before = {row.name: source.read(row.name) for row in rows}
    return before, {row.name: apply(row, before[row.name]) for row in rows}


def stored_as(directory, dtype, round_to=None):
    """Rewrite the weights in another dtype, or so coarsely that many are equal."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    if round_to:
        weights = {n: (w / round_to).round().mul(round_to) for n, w in weights.items()}
    save_file({n: w.to(dtype) for n, w in weights.items()}, path, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.83])
def test_the_smallest_of_a_matrix_go(dtype, ratio):
    weight = torch.randn(9, 14, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = prune_weight(weight, Sparsity.parse(ratio))
    gone = lowest(weight.abs().flatten().tolist(), round(ratio * weight.numel()))
    assert set(torch.nonzero(found.flatten() == 0).flatten().tolist()) == gone
    assert torch.equal(found[found != 0], weight[found != 0])
    assert found.dtype == dtype


def test_a_pattern_takes_the_smallest_of_every_group():
    weight = torch.tensor([[1.0, -3, 2, 0.5, -1, 1, 1, 1]])
    found = prune_weight(weight, Sparsity.parse(None, "2:4"))
    assert found.tolist() == [[0, -3, 2, 0, -1, 1, 0, 0]]


def test_layer_scope_zeroes_the_same_share_of_every_matrix(make_model):
    before, after = edited(make_model(), sparsity=0.3)
    for name, weight in before.items():
        expected = prune_weight(weight, Sparsity.parse(0.3))
        assert torch.equal(after[name], expected)
        assert (expected == 0).sum() == round(0.3 * weight.numel())


@pytest.mark.parametrize("ratio", [1e-6, 0.1, 0.5, 0.9])
@pytest.mark.parametrize(
    ("dtype", "round_to"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float16, None), (torch.float32, 0.1)],
    ids=["fp32", "bf16", "fp16", "many equal"],
)
def test_model_scope_takes_the_smallest_of_all_projections(make_model, ratio, dtype, round_to):
    model = stored_as(make_model(seed=3), dtype, round_to)
    before, after = edited(model, sparsity=ratio, scope="model")
    values = [value for weight in before.values() for value in weight.abs().flatten().tolist()]
    gone = lowest(values, round(ratio * len(values)))
    together = torch.cat([weight.flatten() for weight in before.values()])
    together[list(gone)] = 0
    assert torch.equal(torch.cat([weight.flatten() for weight in after.values()]), together)


@pytest.mark.parametrize(
    "settings", [{"scope": "model"}, {}, {"pattern": "2:4"}], ids=["model", "layer", "2:4"]
)
def test_parts_of_a_matrix_change_nothing(make_model, monkeypatch, settings):
    model = stored_as(make_model(seed=4), torch.float32, round_to=0.1)  # ties lie across parts
    _, whole = edited(model, sparsity=0.4, **settings)
    monkeypatch.setattr(sparsity, "PART_WEIGHTS", 60)  # one to three rows
    _, parts = edited(model, sparsity=0.4, **settings)
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())


@pytest.mark.parametrize("ratio", [0.001, 0.2, 0.5, 0.999])
def test_equal_weights_of_a_matrix_go_from_its_end(ratio, monkeypatch):
    monkeypatch.setattr(sparsity, "PART_WEIGHTS", 20)
    generator = torch.Generator().manual_seed(6)
    weight = torch.randint(-3, 4, (11, 10), generator=generator).bfloat16()
    found = prune_weight(weight, Sparsity.parse(ratio))
    expected = weight.clone().flatten()
    expected[list(lowest(weight.abs().flatten().tolist(), round(ratio * 110)))] = 0
    assert torch.equal(found.flatten(), expected)


def test_model_scope_spares_layers_with_large_weights(make_model, edit_weights):
    model = make_model(seed=5)
    with edit_weights(model) as weights:
        for name in weights:
            if name.startswith("model.layers.1.") and name.endswith("proj.weight"):
                weights[name] *= 1000
    _, after = edited(model, sparsity=0.5, scope="model")
    zeros = {name: (weight == 0).double().mean().item() for name, weight in after.items()}
    assert all(share < 0.01 for name, share in zeros.items() if ".layers.1." in name)
    assert sum((weight == 0).sum().item() for weight in after.values()) == round(
        0.5 * sum(weight.numel() for weight in after.values())
    )


def test_a_pattern_over_the_model_is_one_line(make_model):
    with pytest.raises(ConfigError, match=r"2:4 is chosen within every group .* use scope=layer"):
        edited(make_model(), sparsity=0.5, pattern="2:4", scope="model")


def test_a_pattern_that_does_not_fit_is_one_line(make_model):
    with pytest.raises(ConfigError, match=r"4:8 does not fit .*o_proj\.weight: its 36 inputs"):
        edited(make_model(), sparsity=0.5, pattern="4:8")
