"""Plans that contradict themselves or the model are refused in one line, before any writing."""

from dataclasses import replace

import pytest

from nemo_bielik.artifacts import WeightEdit
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.plan_checks import check_edit, check_plan
from nemo_bielik.pruning.select import keep_everything, select
from nemo_bielik.pruning.slice import apply_plan, planned_bytes


@pytest.fixture(scope="module")
def source(make_model):
    return Checkpoint.open(make_model())


def per_layer(name, sizes):
    return {name: [list(range(size)) for size in sizes]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_model": "of another model"}, "other weights"),
        ({"layers": [0, 1, 2]}, "layers keeps 3, but the target calls for 4"),
        ({"layers": [0, 1, 3, 2]}, "layers must be ascending indices between 0 and 3"),
        ({"hidden": list(range(1, 25))}, "hidden must be ascending indices between 0 and 23"),
        (per_layer("ffn", [20, 20, 20]), "ffn covers 3 layers, not 4"),
        (per_layer("groups", [2, 2, 2, 2]), "groups of layer 0 keeps 2"),
        (
            per_layer("ffn", [20, 20, 16, 20]),
            "ffn keeps 20 in layer 0 but 16 in layer 2; transformers, vLLM and llama.cpp read one",
        ),
        (per_layer("groups", [2, 3, 3, 3]), "groups keeps 2 in layer 0 but 3 in layer 1"),
        (per_layer("heads", [6, 6, 6, 3]), "heads keeps 6 in layer 0 but 3 in layer 3"),
    ],
)
def test_an_inconsistent_plan_is_refused_before_anything_is_written(
    source, tmp_path, changes, words
):
    plan = replace(keep_everything(source.arch), **changes)
    with pytest.raises(DataError, match=words) as caught:
        apply_plan(source, plan, tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=words):
        planned_bytes(source, plan)
    assert list(tmp_path.iterdir()) == []


def test_heads_outside_their_groups_are_refused(source, random_scores):
    target = source.arch.replace(num_attention_heads=3)
    plan = select(from_table(random_scores(source.arch)), target)
    check_plan(plan, source)
    plan = replace(plan, heads=[[0, 1, 2]] * 4)  # two heads of group 0, none of group 2
    with pytest.raises(DataError, match="must lie in its kept query groups, 1 in each"):
        check_plan(plan, source)


def test_a_plan_for_another_architecture_is_refused(source):
    arch = source.arch
    with pytest.raises(DataError, match="another architecture"):
        check_plan(keep_everything(arch.replace(rope_theta=5.0)), source)
    with pytest.raises(ConfigError, match="vocab_size"):
        check_plan(replace(keep_everything(arch), target=arch.replace(vocab_size=4)), source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source_model": "of another model"}, "other weights"),
        ({"sparsity": "0.5"}, "sparsity is '0.5'; it must be a number"),
        ({"sparsity": 1.0}, "sparsity is 1.0; it must be above 0 and below 1"),
        ({"damping": None}, "damping is None; it must be a number"),
        ({"pattern": 24}, "pattern is 24; it must be a string"),
        ({"pattern": "4:8"}, "4:8 does not fit"),
        ({"scope": "row"}, "scope is 'row'; it must be layer or model"),
        ({"method": "shortgpt"}, "shortgpt removes whole units and edits no weights"),
    ],
)
def test_an_unsound_edit_is_refused(source, changes, words):
    edit = WeightEdit(arch=source.arch, method="magnitude", sparsity=0.5)
    check_edit(edit, source)
    with pytest.raises((DataError, ConfigError), match=words) as caught:
        check_edit(replace(edit, **changes), source)
    assert "\n" not in str(caught.value)
