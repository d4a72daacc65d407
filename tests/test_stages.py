"""What surrounds every stage: done, not done, or something else in the way."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from nemo_bielik import stages
from nemo_bielik.errors import DataError, StorageError
from nemo_bielik.manifest import Manifest


@dataclass(kw_only=True)
class Config:
    model: Path
    output: Path
    steps: int = 3
    sizes: tuple[int, ...] = (1, 2)


@pytest.fixture
def config(tmp_path):
    return Config(model=tmp_path / "model", output=tmp_path / "output")


def run(config, inputs, seed=None):
    """Run a stage that writes one file, unless it is done; return whether it ran."""
    manifest = stages.describe("test", config, inputs, seed)
    if stages.is_done(config.output, manifest):
        return False
    results = {}
    with stages.stage_output(config.output, manifest, results) as scratch:
        (scratch / "file").write_text("content")
        results["figure"] = 1.5
    return True


def test_runs_once(config):
    assert run(config, {"model": "hash"})
    assert not run(config, {"model": "hash"})


def test_the_manifest_tells_everything(config):
    run(config, {"model": "hash"}, seed=7)
    manifest = Manifest.load(config.output)
    assert (manifest.stage, manifest.seed, manifest.inputs) == ("test", 7, {"model": "hash"})
    assert manifest.config["steps"] == 3
    assert manifest.results == {"figure": 1.5}
    assert manifest.wall_seconds >= 0
    assert "torch" in manifest.versions


@pytest.mark.parametrize(
    ("changes", "inputs", "seed", "words"),
    [
        ({"steps": 4}, {"model": "hash"}, None, "setting steps"),
        ({}, {"model": "other"}, None, "input model"),
        ({}, {"model": "hash"}, 5, "seed"),
    ],
)
def test_another_recipe_is_named_and_refused(config, changes, inputs, seed, words):
    run(config, {"model": "hash"})
    other = Config(**{**vars(config), **changes})
    with pytest.raises(StorageError, match=f"with another {words}; remove it"):
        run(other, inputs, seed)


def test_a_folder_of_something_else_is_refused(config):
    config.output.mkdir()
    with pytest.raises(StorageError, match="not made by this package"):
        run(config, {})


def test_unfinished_work_is_its_recipes_whatever_is_ignored(config, tmp_path):
    def claim(sizes=(1, 2), ignore=(), **inputs):
        changed = Config(**{**vars(config), "sizes": sizes})
        manifest = stages.describe("test", changed, {"model": "hash"} | inputs)
        stages.claim_work(tmp_path, manifest, ignore)

    claim(ignore=("sizes",))
    claim(ignore=("sizes",))
    claim(sizes=(3,), ignore=("sizes",))
    assert "sizes" not in Manifest.load(tmp_path).config
    with pytest.raises(StorageError, match="with another input model; remove it"):
        claim(ignore=("sizes",), model="other")
    with pytest.raises(StorageError, match="with another setting sizes"):
        claim()


HOLDER = """
import sys, time
from pathlib import Path
from nemo_bielik.manifest import Manifest
from nemo_bielik.stages import hold_work
output = Path(sys.argv[1])
with hold_work(output, Manifest(stage="test", config={})) as work:
    print("held", flush=True)
    sys.stdin.read()
    (work / "saved").touch()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that works on ``output`` until its stdin is closed."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "output")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_work_is_held_by_one_process_at_a_time(tmp_path, holder, monkeypatch):
    manifest, output = Manifest(stage="test", config={}), tmp_path / "output"
    monkeypatch.setattr(stages, "_PATIENCE_SECONDS", 0.1)
    with (
        pytest.raises(StorageError, match=r"output: another process works on it; wait") as caught,
        stages.hold_work(output, manifest),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_who_ends_is_waited_for(tmp_path, holder, monkeypatch, capsys):
    manifest, output = Manifest(stage="test", config={}), tmp_path / "output"
    looks = []

    def look(seconds):
        looks.append(seconds)
        holder.stdin.close()
        holder.wait()

    monkeypatch.setattr(stages.time, "sleep", look)
    with stages.hold_work(output, manifest) as work:
        assert (work / "saved").exists()
    assert len(looks) == 1
    assert capsys.readouterr().err == f"{output}: waiting for the process that works on it\n"
    with stages.hold_work(output, manifest) as work:  # it was let go of
        assert work.is_dir()


def test_what_another_process_has_finished_meanwhile_is_done(tmp_path, monkeypatch):
    manifest, output = Manifest(stage="test", config={}), tmp_path / "output"
    lock = stages._lock

    def finished(directory, path):  # while its lock is waited for
        shutil.rmtree(stages.work_directory(output))
        with stages.stage_output(output, manifest, {}):
            pass
        lock(directory, path)

    monkeypatch.setattr(stages, "_lock", finished)
    with stages.hold_work(output, manifest) as work:
        assert work is None


def test_a_failing_stage_leaves_nothing(config, tmp_path):
    manifest = stages.describe("test", config, {})
    with (
        pytest.raises(RuntimeError),
        stages.stage_output(config.output, manifest, {}) as scratch,
    ):
        (scratch / "file").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "is not a manifest"),
        ("[]", "one JSON object"),
        ('{"version": 99}', "format version 99"),
        ('{"version": 1, "colour": "red"}', "colour"),
    ],
)
def test_a_damaged_manifest_is_one_line(tmp_path, text, words):
    (tmp_path / "bielik_manifest.json").write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)
