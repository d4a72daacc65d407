"""Verify finds every change of an output, its plan or its source, and says which in one line."""

import json
import shutil
from dataclasses import replace

import pytest

from nemo_bielik.artifacts import PLAN_NAME, PruningPlan
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.errors import DataError
from nemo_bielik.files import file_sha256
from nemo_bielik.manifest import MANIFEST_NAME
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


def test_a_weight_edit_says_what_is_not_checked(source, tmp_path, capsys):
    output = tmp_path / "output"
    prune(PruneConfig(model=source.directory, output=output, method="magnitude", sparsity=0.5))
    capsys.readouterr()
    assert verify(VerifyConfig(output=output)) == 0
    found = capsys.readouterr().out.splitlines()
    one(found, "its weights are not made again")
    assert len(found) == 3
    flip(output / "model.safetensors", -1)
    assert verify(VerifyConfig(output=output)) == 1
    one(capsys.readouterr().out.splitlines(), "model.safetensors", "was changed")


def test_what_was_not_pruned_or_records_nothing_is_refused(output, tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        verify(VerifyConfig(output=tmp_path))
    path = output / MANIFEST_NAME
    value = json.loads(path.read_text())
    for change in ({"stage": "distill"}, {"results": {}}):
        path.write_text(json.dumps(value | change))
        with pytest.raises(DataError, match="records no hashes of a pruned model"):
            verify(VerifyConfig(output=output))
