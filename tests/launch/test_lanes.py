"""Lanes hand errors on, make ranks of lanes, and never outlive whoever opened them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nemo_bielik.errors import BielikError, ConfigError
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.parallel import ParallelConfig

HERE = str(Path(__file__).parent)
if HERE not in sys.path:  # handed on to the lanes, which import the stages
    sys.path.insert(0, HERE)

from lane_stages import Task  # noqa: E402

TWO_RANKS = ParallelConfig(data=2)
PATIENCE_SECONDS = 60


def stage(name):
    return f"lane_stages:{name}"


@pytest.fixture(scope="module")
def lanes():
    with Lanes(2) as lanes:
        yield lanes


def notes(folder, name="task"):
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"{name}-*.json"))]


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.02)


def is_gone(pid):
    """Whether a process has ended, waited for by somebody or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_stage_runs_in_another_process(lanes, tmp_path):
    lanes.run(stage("note"), Task(folder=tmp_path))
    (seen,) = notes(tmp_path)
    assert seen["pid"] in {child.pid for child in psutil.Process().children()}


def test_a_lane_is_no_rank_of_the_process_that_opened_it(tmp_path, monkeypatch):
    """Which torchrun may have started; side by side, two lanes would meet at its store."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    with Lanes(1) as own:
        own.run(stage("note"), Task(folder=tmp_path))
    (seen,) = notes(tmp_path)
    assert set(seen) == {"pid", "BIELIK_LANE"}


def test_an_error_of_a_stage_reaches_the_caller_as_itself(lanes, tmp_path):
    with pytest.raises(ConfigError) as caught:
        lanes.run(stage("refuse"), Task(folder=tmp_path, name="colour"))
    assert str(caught.value) == "colour is wrong; it must be right"
    with pytest.raises(ZeroDivisionError, match="colour"):
        collect([lanes.submit(stage("blunder"), Task(folder=tmp_path, name="colour"))])
    lanes.run(stage("note"), Task(folder=tmp_path))  # the lane goes on
    assert len(notes(tmp_path)) == 1


def test_a_stage_that_does_not_exist_is_named(lanes, tmp_path):
    with pytest.raises(ConfigError, match="needs the package 'no_such_stages'"):
        lanes.run("no_such_stages:run", Task(folder=tmp_path))


def test_a_distributed_stage_takes_as_many_lanes_as_it_has_ranks(lanes, tmp_path):
    lanes.run(stage("note"), Task(folder=tmp_path, parallel=TWO_RANKS))
    first, second = notes(tmp_path)
    assert first["pid"] != second["pid"]
    assert [rank["RANK"] for rank in (first, second)] == ["0", "1"]
    assert [rank["LOCAL_RANK"] for rank in (first, second)] == ["0", "1"]
    assert {first["WORLD_SIZE"], second["WORLD_SIZE"]} == {"2"}
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert {first["BIELIK_LANE"], second["BIELIK_LANE"]} == {"0", "1"}


def test_the_variables_of_ranks_are_gone_afterwards(lanes, tmp_path):
    lanes.run(stage("note"), Task(folder=tmp_path, name="ranks", parallel=TWO_RANKS))
    with pytest.raises(ConfigError):
        lanes.run(stage("refuse"), Task(folder=tmp_path, parallel=TWO_RANKS))
    futures = [
        lanes.submit(stage("note"), Task(folder=tmp_path, name=name)) for name in ("left", "right")
    ]
    collect(futures)
    for name in ("left", "right"):
        (seen,) = notes(tmp_path, name)
        assert seen.keys() == {"pid", "BIELIK_LANE"}


def test_more_ranks_than_lanes_are_refused(lanes, tmp_path):
    with pytest.raises(BielikError) as caught:
        lanes.run(stage("note"), Task(folder=tmp_path, parallel=ParallelConfig(tensor=3)))
    assert str(caught.value) == (
        "lane_stages:note: needs 3 processes, but 2 lanes are open; raise lanes or shrink parallel"
    )
    assert notes(tmp_path) == []


@pytest.mark.parametrize("ending", ["be_killed", "leave"])
def test_a_lane_that_ends_is_one_line_with_what_to_do(tmp_path, ending):
    with Lanes(1) as lanes, pytest.raises(BielikError) as caught:
        lanes.run(stage(ending), Task(folder=tmp_path))
    assert "ended abruptly" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["run", "submit"])
def test_a_lane_killed_while_idle_is_the_same_line(tmp_path, method):
    with Lanes(1) as lanes:
        lanes.run(stage("note"), Task(folder=tmp_path))
        psutil.Process(notes(tmp_path)[0]["pid"]).kill()
        wait_for(lambda: lanes._pool._broken, "the pool's notice")
        with pytest.raises(BielikError, match="ended abruptly"):
            getattr(lanes, method)(stage("note"), Task(folder=tmp_path))


def test_one_rank_that_fails_ends_the_ranks_that_wait_for_it(tmp_path):
    started = time.monotonic()
    with pytest.raises(ConfigError, match="task is wrong"), Lanes(2) as lanes:
        lanes.run(stage("fail_on_rank_1"), Task(folder=tmp_path, parallel=TWO_RANKS))
    assert time.monotonic() - started < PATIENCE_SECONDS


def test_leaving_the_block_on_an_error_ends_what_runs(tmp_path):
    with pytest.raises(KeyboardInterrupt), Lanes(1) as lanes:
        lanes.submit(stage("sleep"), Task(folder=tmp_path))
        wait_for(lambda: notes(tmp_path), "the stage's start")
        raise KeyboardInterrupt
    assert is_gone(notes(tmp_path)[0]["pid"])


def test_leaving_the_block_waits_for_what_was_submitted(tmp_path):
    with Lanes(1) as lanes:
        future = lanes.submit(stage("note"), Task(folder=tmp_path))
    assert future.done()
    assert len(notes(tmp_path)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of a parent's death")
def test_lanes_end_with_a_parent_that_is_killed(tmp_path):
    code = (
        f"import sys, pathlib; sys.path.insert(0, {HERE!r})\n"
        "from lane_stages import Task\n"
        "from nemo_bielik.launch.lanes import Lanes\n"
        "with Lanes(2) as lanes:\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    tasks = [Task(folder=folder, name=name) for name in ('left', 'right')]\n"
        "    stages = [lanes.submit('lane_stages:sleep', task) for task in tasks]\n"
        "    [stage.result() for stage in stages]\n"  # leaving the block would cancel what waits
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        try:
            wait_for(lambda: notes(tmp_path, "left") and notes(tmp_path, "right"), "the start")
            stages = [seen["pid"] for name in ("left", "right") for seen in notes(tmp_path, name)]
            assert not any(map(is_gone, stages))
        finally:
            parent.kill()
    wait_for(lambda: all(map(is_gone, stages)), "the end of the lanes")
