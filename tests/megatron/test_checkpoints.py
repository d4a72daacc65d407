"""A run continues from its newest checkpoint that is whole, and ends as if nothing had happened."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig, TrainConfig

STEPS = 6
BROKEN_OFF = 5  # after the checkpoint of step 4


@pytest.fixture(scope="module")
def settings(student, tokens):
    return {
        "model": student,
        "train_data": tokens,
        "iters": STEPS,
        "sequence_length": 32,
        "global_batch_size": 8,
        "micro_batch_size": 8,
        "save_interval": 2,
        "async_save": False,  # a run that breaks off leaves all that it saved
        "optim": OptimConfig(max_lr=1e-2, min_lr=1e-3, warmup_iters=1, clip_grad=0.0),
    }


def weights(config: TrainConfig) -> bytes:
    return (config.output / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(call, settings, tmp_path_factory):
    config = TrainConfig(**settings, output=tmp_path_factory.mktemp("undisturbed") / "output")
    assert call("stopped_cases:train_heard", config) == [""]
    return weights(config)


@pytest.fixture(scope="module")
def broken_off(call, settings, tmp_path_factory):
    """A run with the checkpoints of steps 2 and 4, and a copy of its work."""
    config = TrainConfig(**settings, output=tmp_path_factory.mktemp("broken-off") / "output")
    call("stopped_cases:train_until", config, BROKEN_OFF)
    work = work_directory(config.output)
    assert checkpoints(work) == ["iter_0000002", "iter_0000004"]
    return config, shutil.copytree(work, work.with_name("kept"))


@pytest.fixture
def stopped(broken_off):
    """The run broken off, and the newest of its checkpoints, to be damaged."""
    config, kept = broken_off
    work = work_directory(config.output)
    for path in (work, config.output):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(kept, work)
    return config, work / "checkpoints" / "iter_0000004"


def checkpoints(work: Path) -> list[str]:
    return sorted(path.name for path in (work / "checkpoints").glob("iter_*"))


def shard(checkpoint: Path, rank: int = 0) -> Path:
    """Return the largest file of weights or optimizer state that a rank wrote."""
    return max(checkpoint.glob(f"__{rank}_*.distcp"), key=lambda path: path.stat().st_size)


def truncate(checkpoint: Path) -> None:
    path = shard(checkpoint)
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(checkpoint: Path) -> None:
    """Leave what a kill leaves before the last file is written."""
    truncate(checkpoint)
    (checkpoint / "train_state.pt").unlink()
    (checkpoint / "complete.json").unlink()


DAMAGES = {
    "truncated shard": (truncate, r"__0_\d\.distcp has [\d,]+ of [\d,]+ bytes"),
    "flipped bit": (
        lambda path: flip(shard(path)),
        r"__0_\d\.distcp is not what was written",
    ),
    "flipped bit of metadata": (
        lambda path: flip(path / "common.pt"),
        r"common\.pt is not what was written",
    ),
    "missing file": (
        lambda path: (path / ".metadata").unlink(),
        r"\.metadata cannot be read",
    ),
    "half-written": (cut_short, "its writing was cut short"),
    "torn seal": (
        lambda path: (path / "complete.json").write_text('{"common.pt": [12'),
        "complete.json cannot be read",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(call, stopped, undisturbed, damage):
    config, newest = stopped
    spoil, reason = DAMAGES[damage]
    spoil(newest)
    (said,) = call("stopped_cases:train_heard", config)
    expected = rf"checkpoint of step 4 is damaged \({reason}\); continuing from step 2\n"
    assert re.fullmatch(expected, said), said
    assert weights(config) == undisturbed


def test_torn_notes_of_the_last_checkpoint_are_written_anew(call, stopped, undisturbed):
    config, newest = stopped
    flip(newest.parent / "latest_train_state.pt")
    (newest.parent / "latest_checkpointed_iteration.txt").write_text("")
    assert call("stopped_cases:train_heard", config) == [""]
    assert weights(config) == undisturbed
    resumed = (config.output / "training" / "metrics.jsonl").read_text().splitlines()
    before = (broken_off_metrics(config)).read_text().splitlines()
    assert resumed[:4] == before[:4]  # with their seconds: these steps were not taken again


def broken_off_metrics(config: TrainConfig) -> Path:
    return config.output.parent / "kept" / "metrics.jsonl"


def test_without_a_whole_checkpoint_training_starts_over(call, stopped, undisturbed):
    config, newest = stopped
    for path in newest.parent.glob("iter_*"):
        truncate(path)
    (said,) = call("stopped_cases:train_heard", config)
    assert said.startswith("checkpoint of step 4 is damaged (")
    assert "; checkpoint of step 2 is damaged (" in said
    assert said.endswith("; starting from the beginning\n")
    assert said.count("\n") == 1
    assert weights(config) == undisturbed


def test_a_seal_names_every_file_of_its_checkpoint(broken_off):
    _, kept = broken_off
    for name in checkpoints(kept):
        checkpoint = kept / "checkpoints" / name
        sealed = json.loads((checkpoint / "complete.json").read_text())
        files = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
        assert set(sealed) == files - {"complete.json"}
        for file, (size, digest) in sealed.items():
            content = (checkpoint / file).read_bytes()
            assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_data_parallel_ranks_agree_on_what_is_damaged(call, settings, tmp_path):
    """Each checks its share of the files; all fall back together, and one of them says so."""
    parallel = ParallelConfig(data=2)
    saved = settings | {"micro_batch_size": 4, "parallel": parallel}
    undisturbed = TrainConfig(**saved, output=tmp_path / "undisturbed")
    assert call("stopped_cases:train_heard", undisturbed, parallel=parallel) == ["", ""]
    config = TrainConfig(**saved, output=tmp_path / "output")
    call("stopped_cases:train_until", config, BROKEN_OFF, parallel=parallel)
    flip(shard(work_directory(config.output) / "checkpoints" / "iter_0000004", rank=1))
    first, second = call("stopped_cases:train_heard", config, parallel=parallel)
    assert "__1_" in first and first.endswith("; continuing from step 2\n")
    assert second == ""
    assert weights(config) == weights(undisturbed)
