"""Verify finds every change of an output, its plan or its source, and says which in one line."""

import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file as save_numpy_file
from safetensors.torch import load_file, save_file

from nemo_bielik.artifacts import EDIT_NAME, PLAN_NAME, PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import MANIFEST_NAME
from nemo_bielik.pruning.input_statistics import (
    INPUT_NORMS_NAME,
    Hessians,
    InputNorms,
    hessian_file,
    input_sizes,
)
from nemo_bielik.pruning.prune import PruneConfig, prune
from nemo_bielik.pruning.verify import VerifyConfig, verify


@pytest.fixture
def source(make_model, tokenizer_directory, tmp_path):
    directory = tmp_path / "source"
    shutil.copytree(make_model(), directory)
    shutil.copytree(tokenizer_directory, directory, dirs_exist_ok=True)
    return Checkpoint.open(directory)


@pytest.fixture
def output(source, random_scores, tmp_path):
    table = random_scores(source.arch, source.fingerprint())
    table.save(tmp_path / "scores" / "scores.safetensors")
    sizes = {"num_layers": 3, "hidden_size": 16, "ffn_hidden_size": 12}
    output = tmp_path / "output"
    prune(PruneConfig(model=source.directory, scores=tmp_path / "scores", output=output, **sizes))
    return output


@pytest.fixture
def plan(output):
    return PruningPlan.load(output / PLAN_NAME)


@pytest.fixture
def lines(output, capsys):
    """Return a function that expects a status and returns the lines that were printed."""

    def run(status, **settings):
        capsys.readouterr()
        assert verify(VerifyConfig(output=output, **settings)) == status
        return capsys.readouterr().out.splitlines()

    return run


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def one(found, *words):
    """Expect one line to hold all of `words`."""
    assert sum(all(word in line for word in words) for line in found) == 1, found


def rerecord(output, name):
    """Make the manifest say of a file what it is now, as somebody who covers his tracks would."""
    path = output / MANIFEST_NAME
    value = json.loads(path.read_text())
    value["results"]["sha256"][name] = file_sha256(output / name)
    path.write_text(json.dumps(value))


def test_an_untouched_output_is_what_plan_and_source_give(lines, output, source):
    found = lines(0)
    one(found, f"all {len(list(output.iterdir())) - 1} files are as they were written")
    one(found, str(source.directory), "is the model that was pruned")
    one(found, PLAN_NAME, "give exactly what was recorded")
    assert len(found) == 3


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_is_found(lines, output, name, place):
    flip(output / name, place)
    found = lines(1)
    one(found, name, "was changed: SHA-256")
    one(found, PLAN_NAME, "give exactly what was recorded")
    assert len(found) == 3


def test_missing_and_added_files_are_named(lines, output):
    (output / "config.json").unlink()
    (output / "deep").mkdir()
    (output / "deep" / "notes.txt").write_text("mine")
    found = lines(1)
    one(found, "config.json", "is missing")
    one(found, "deep/notes.txt", "is not of the prune stage")


def test_an_edited_plan_is_found(lines, output, plan):
    other = next(n for n in range(plan.source.ffn_hidden_size) if n not in plan.ffn[0])
    ffn = [sorted([*plan.ffn[0][1:], other]), *plan.ffn[1:]]
    replace(plan, ffn=ffn).save(output / PLAN_NAME)
    found = lines(1)
    one(found, PLAN_NAME, "was changed")
    assert len(found) == 2
    rerecord(output, PLAN_NAME)
    one(lines(1), PLAN_NAME, "give another model.safetensors")


def test_weights_that_were_exchanged_with_their_record_are_found(lines, output):
    flip(output / "model.safetensors", -1)
    rerecord(output, "model.safetensors")
    found = lines(1)
    one(found, "files are as they were written")
    one(found, "give another model.safetensors")


def test_an_added_file_with_a_record_is_found(lines, output):
    (output / "notes.txt").write_text("mine")
    rerecord(output, "notes.txt")
    one(lines(1), "give another notes.txt")


def test_a_plan_that_does_not_fit_is_one_line(lines, output, plan):
    replace(plan, layers=plan.layers[1:]).save(output / PLAN_NAME)
    rerecord(output, PLAN_NAME)
    one(lines(1), "layers keeps 2, but the target calls for 3")


def test_another_source_is_found(lines, source, make_model, tmp_path):
    one(lines(1, source=make_model(seed=1)), "is not the model that was pruned", "--source")
    one(lines(1, source=tmp_path / "nowhere"), "no such model directory")
    moved = source.directory.rename(tmp_path / "moved")
    one(lines(1), str(source.directory), "no such model directory")
    assert len(lines(0, source=moved)) == 3
    flip(moved / "model.safetensors", -1)
    one(lines(1, source=moved), "is not the model that was pruned")


# --- weight edits

EDITS = {
    "magnitude": {"sparsity": 0.5},
    "magnitude, model": {"sparsity": 0.5, "scope": "model"},
    "magnitude, 2:4": {"pattern": "2:4"},
    "wanda": {"sparsity": 0.3},
    "wanda, 2:4": {"pattern": "2:4"},
    "sparsegpt": {"sparsity": 0.5},
    "sparsegpt, 2:4": {"pattern": "2:4"},
}


def save_statistics(source, directory):
    """Write input norms and Hessians of random inputs."""
    generator = np.random.default_rng(0)
    norms, hashes = {}, []
    sizes = input_sizes(source.arch)
    shared = {"arch": source.arch, "model": source.fingerprint(), "tokens": 64}
    for name, size in sizes.items():
        norms[name] = generator.uniform(0.1, 9, (source.arch.num_layers, size))
    InputNorms(squares=norms, **shared).save(directory / INPUT_NORMS_NAME)
    for layer in range(source.arch.num_layers):
        inputs = {name: generator.normal(size=(64, size)) for name, size in sizes.items()}
        matrices = {name: (x.T @ x).astype(np.float32) for name, x in inputs.items()}
        save_numpy_file(matrices, directory / hessian_file(layer))
        hashes.append(file_sha256(directory / hessian_file(layer)))
    Hessians(layers=hashes, directory=directory, **shared).save()


@pytest.fixture(scope="module")
def edit_source(make_model):
    return Checkpoint.open(make_model())


@pytest.fixture(scope="module")
def made(edit_source, tmp_path_factory):
    """Return a function that makes an edit of `EDITS`, once."""
    place = tmp_path_factory.mktemp("edits")
    save_statistics(edit_source, place)

    @functools.cache
    def make(kind):
        method = kind.partition(",")[0]
        scores = None if method == "magnitude" else place
        settings = {"method": method, "scores": scores, **EDITS[kind]}
        prune(PruneConfig(model=edit_source.directory, output=place / kind, **settings))
        return place / kind

    return make


@pytest.fixture
def edited(made, tmp_path, capsys):
    """Return a function that gives a copy of an edit and what verifies it."""
    output = tmp_path / "edited"

    def lines(status, **settings):
        capsys.readouterr()
        assert verify(VerifyConfig(output=output, **settings)) == status
        return capsys.readouterr().out.splitlines()

    return lambda kind: (shutil.copytree(made(kind), output), lines)


def change_weights(output, name, change):
    """Change a tensor in place and cover the tracks in the manifest."""
    path = output / "model.safetensors"
    weights = load_file(path)
    change(weights[name].view(-1))
    save_file(weights, path, metadata={"format": "pt"})
    rerecord(output, "model.safetensors")


def place_of(weights, number, *, zero):
    return int(((weights == 0) == zero).nonzero()[number])


def adjust(weights):
    weights[place_of(weights, 3, zero=False)] *= 1.5


def kill(weights):
    weights[place_of(weights, 3, zero=False)] = 0


PROJECTION = "model.layers.2.mlp.gate_proj.weight"


@pytest.mark.parametrize("kind", EDITS)
def test_an_untouched_edit_is_what_its_source_gives(edited, edit_source, kind):
    output, lines = edited(kind)
    found = lines(0)
    one(found, f"all {len(list(output.iterdir())) - 1} files are as they were written")
    one(found, str(edit_source.directory), "is the model that was pruned")
    weights = load_file(output / "model.safetensors")
    zeros = sum(int((w == 0).sum()) for name, w in weights.items() if name.endswith("proj.weight"))
    if kind.startswith("sparsegpt"):
        one(
            found, f"its {zeros:,} zeros are what", "that it adjusted are not made again to compare"
        )
        assert len(found) == 3
    else:
        one(found, f"its {zeros:,} zeros are what", "every other weight is the source's")
        one(found, EDIT_NAME, "give exactly what was recorded")
        assert len(found) == 4


@pytest.mark.parametrize("kind", EDITS)
def test_a_changed_tensor_that_no_edit_touches_is_found(edited, kind):
    output, lines = edited(kind)
    name = "model.layers.1.input_layernorm.weight"
    change_weights(output, name, adjust)
    one(lines(1), f"{name} differs from the source, but is not edited")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("magnitude", f"{PROJECTION} has 239 zeros, not 240"),
        ("magnitude, model", "8,063 weights of the projections are zero, not 8,064"),
        ("magnitude, 2:4", f"{PROJECTION} has fewer than 2 zeros in 4 weights of a row"),
        ("wanda", f"{PROJECTION} has fewer than 7 zeros in 24 weights of a row"),
        ("wanda, 2:4", f"{PROJECTION} has fewer than 2 zeros in 4 weights of a row"),
        ("sparsegpt", f"{PROJECTION} has 239 zeros, not 240"),
        ("sparsegpt, 2:4", f"{PROJECTION} has fewer than 2 zeros in 4 weights of a row"),
    ],
)
def test_a_zero_that_got_its_weight_back_is_found(edited, edit_source, kind, said):
    output, lines = edited(kind)

    def revive(weights):
        place = place_of(weights, 3, zero=True)
        weights[place] = edit_source.read(PROJECTION).view(-1)[place]

    change_weights(output, PROJECTION, revive)
    found = lines(1)
    one(found, "files are as they were written")
    one(found, said)


@pytest.mark.parametrize("kind", [kind for kind in EDITS if "sparsegpt" not in kind])
def test_a_weight_that_is_not_the_sources_is_found(edited, kind):
    output, lines = edited(kind)
    change_weights(output, PROJECTION, adjust)
    one(lines(1), f"{PROJECTION} holds weights that are neither zero nor the source's")


@pytest.mark.parametrize("kind", EDITS)
def test_one_zero_too_many_is_found(edited, kind):
    output, lines = edited(kind)
    change_weights(output, PROJECTION, kill)
    one(lines(1), "weights of the projections are zero, but its manifest records")


@pytest.mark.parametrize("kind", ["magnitude", "magnitude, 2:4", "wanda", "wanda, 2:4"])
def test_another_choice_of_as_many_zeros_is_found_by_making_the_edit_again(
    edited, edit_source, kind
):
    output, lines = edited(kind)

    def exchange(weights):
        """Within a group: bring one weight back as it was and zero another."""
        before = edit_source.read(PROJECTION).view(-1)
        group = 4 if "pattern" in EDITS[kind] else edit_source.arch.hidden_size
        part = slice(group, 2 * group)
        zero, kept = (place_of(weights[part], 0, zero=z) + group for z in (True, False))
        weights[zero], weights[kept] = before[zero], 0

    change_weights(output, PROJECTION, exchange)
    found = lines(1)
    one(found, "every other weight is the source's")
    one(found, f"{EDIT_NAME} and {edit_source.directory} give another model.safetensors")


def test_wanda_without_its_scores_is_compared_with_the_source_alone(edited, made, tmp_path):
    output, lines = edited("wanda")
    scores = tmp_path / INPUT_NORMS_NAME
    shutil.copyfile(made("wanda").parent / INPUT_NORMS_NAME, scores)
    path = output / MANIFEST_NAME
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"config": value["config"] | {"scores": str(tmp_path)}}))
    one(lines(0), EDIT_NAME, "give exactly what was recorded")
    flip(scores, -1)
    one(lines(0), str(scores), "is gone or another by now; the edit is not made again")
    scores.unlink()
    found = lines(0)
    one(found, str(scores), "is gone or another by now; the edit is not made again")
    one(found, "every other weight is the source's")
    change_weights(output, PROJECTION, adjust)
    one(lines(1), f"{PROJECTION} holds weights that are neither zero nor the source's")


def test_an_edit_with_flipped_bits_is_found(edited):
    output, lines = edited("magnitude")
    flip(output / "model.safetensors", -1)
    found = lines(1)
    one(found, "model.safetensors", "was changed")
    one(found, EDIT_NAME, "give exactly what was recorded")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sparsity": 0.6}, "zeros, not"),
        ({"sparsity": "much"}, "sparsity is 'much'; it must be a number"),
        ({"sparsity": 7.0}, "it must be above 0 and below 1"),
        ({"pattern": ["2:4"]}, "pattern is ['2:4']; it must be a string"),
        ({"pattern": "2:5"}, "2:5 does not fit"),
        ({"method": "minitron"}, "minitron removes whole units and edits no weights"),
        ({"method": "guess"}, "method is 'guess'"),
        ({"scope": "row"}, "scope is 'row'; it must be layer or model"),
        ({"source_model": "other"}, "was made for other weights"),
        ({"arch": 5}, "is not a weight edit of this version"),
    ],
)
def test_an_edit_that_was_changed_with_its_record_is_one_line(edited, changes, said):
    output, lines = edited("magnitude")
    path = output / EDIT_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    found = lines(1)
    one(found, EDIT_NAME, "was changed")
    assert len(found) == 2
    rerecord(output, EDIT_NAME)
    one(lines(1), said)


# --- what cannot be verified


@pytest.mark.parametrize("value", [5, [5, 5, 5], "all", None, [["a"]] * 3])
def test_a_plan_of_another_type_is_one_line(lines, output, value):
    path = output / PLAN_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ffn": value}))
    rerecord(output, PLAN_NAME)
    one(lines(1), PLAN_NAME, "is not a pruning plan of this version")


def test_a_source_that_the_manifest_does_not_tell_is_asked_for(lines, output, source, monkeypatch):
    path = output / MANIFEST_NAME
    value = json.loads(path.read_text())
    for named, said in [
        ({}, "does not name the model that was pruned; give it by --source"),
        ({"model": 5}, "does not name the model that was pruned; give it by --source"),
        ({"model": "source"}, "source: no such model directory; give it by --source"),
    ]:
        path.write_text(json.dumps(value | {"config": named}))
        one(lines(1), said)
        assert len(lines(0, source=source.directory)) == 3
    monkeypatch.chdir(source.directory.parent)
    assert len(lines(0)) == 3
    path.write_text(json.dumps(value | {"inputs": {}}))
    one(lines(1), "is not the model that was pruned")


@pytest.mark.parametrize("changes", [{"results": []}, {"config": 3}, {"inputs": None}])
def test_a_manifest_of_another_type_is_one_line(output, changes):
    path = output / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=MANIFEST_NAME) as caught:
        verify(VerifyConfig(output=output))
    assert "\n" not in str(caught.value)


def test_what_was_not_pruned_or_records_nothing_is_refused(output, tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        verify(VerifyConfig(output=tmp_path))
    path = output / MANIFEST_NAME
    value = json.loads(path.read_text())
    for change in ({"stage": "distill"}, {"results": {}}, {"results": {"sha256": 3}}):
        path.write_text(json.dumps(value | change))
        with pytest.raises(DataError, match="records no hashes of a pruned model"):
            verify(VerifyConfig(output=output))
