"""Stages as jobs of a real Slurm controller, started one by one as a search decides."""

import json
import sys

import pytest

from nemo_bielik import cli
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.launch import workers
from nemo_bielik.launch.slurm_site import SlurmSite
from nemo_bielik.launch.workers import JobWorkers
from nemo_bielik.search.config import SearchConfig
from nemo_bielik.search.stage import open_workers

PARTS = ("train", "recovery", "calibration", "validation", "test")
SMALL = {"people": 20, "cloze_items": 20, "pairs_per_phenomenon": 4}
SMALL |= {f"{part}_documents": 20 for part in PARTS}


@pytest.fixture
def site(tmp_path, cluster):
    return SlurmSite(
        account="physics",
        job_directory=tmp_path / "jobs",
        time="00:30:00",
        ranks_per_node=1,
        requeues=0,
        python=sys.executable,
    )


@pytest.fixture(autouse=True)
def an_impatient_look(monkeypatch):
    monkeypatch.setattr(workers, "_LOOK_SECONDS", 0.2)


def world(output):
    return MakeWorldConfig(output=output, **SMALL)


def test_jobs_run_side_by_side_and_a_failed_one_is_one_line(site, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    at_work = JobWorkers(site, tmp_path / "notes")
    labels = ("first", "second", "taken")
    waits = {label: at_work.start("world", world(tmp_path / label), label) for label in labels}
    waits["second"]()
    waits["first"]()
    for label in ("first", "second"):
        assert (tmp_path / label / "bielik_manifest.json").is_file()
    with pytest.raises(DataError, match=r"taken: its job ended as failed; `bielik launch logs"):
        waits["taken"]()


def test_a_job_that_is_under_way_is_found_again(cluster, site, tmp_path):
    held = SlurmSite(**vars(site) | {"sbatch": {"begin": "now+1hour"}})
    JobWorkers(held, tmp_path / "notes").start("world", world(tmp_path / "world"), "world")
    note = tmp_path / "notes" / "world.json"
    (job,) = json.loads(note.read_text())["jobs"].values()
    assert cluster.state(job) == "PENDING"

    again = JobWorkers(site, tmp_path / "notes").start("world", world(tmp_path / "world"), "world")
    assert json.loads(note.read_text())["jobs"] == {"world": job}
    cluster.start_again(job)
    again()
    assert (tmp_path / "world" / "bielik_manifest.json").is_file()
    assert cluster.run("squeue", "--noheader", "--states=PENDING,RUNNING").strip() == ""


def test_an_array_is_waited_for_to_its_end_and_all_its_jobs_are_heard(site, tmp_path, capfd):
    """Its first job is stopped before the end of the run, the second ends it."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "job $SLURM_ARRAY_TASK_ID at work"\n'
        f'[ "$SLURM_ARRAY_TASK_ID" = 2 ] || exit 3\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    array = SlurmSite(**vars(site) | {"array": "1-2%1", "python": str(python)})
    JobWorkers(array, tmp_path / "notes").start("world", world(tmp_path / "world"), "world")()
    assert (tmp_path / "world" / "bielik_manifest.json").is_file()
    (tmp_path / "site.toml").write_text(
        f"[cluster]\nkind = 'slurm'\naccount = 'physics'\nranks_per_node = 1\n"
        f"job_directory = '{site.job_directory}'\n"
    )
    words = ["world", f"--site={tmp_path / 'site.toml'}"]
    assert cli.main(["launch", "logs", *words]) == 0
    logs = capfd.readouterr().out.splitlines()
    assert {"job 1 at work", "job 2 at work"} <= set(logs)
    assert cli.main(["launch", "status", *words]) == 0
    assert capfd.readouterr().out.startswith("world  COMPLETED, FAILED  ")


def test_a_search_takes_jobs_of_a_cluster_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bielik_site.toml").write_text(
        "[here]\nkind = 'local'\n"
        "[cluster]\nkind = 'slurm'\naccount = 'physics'\n"
        "job_directory = '/jobs'\nranks_per_node = 1\n"
    )
    paths = dict.fromkeys(("model", "calibration", "train_data", "validation_data"), tmp_path)
    settings = {"output": tmp_path / "search", "preset": "paper", **paths}
    with open_workers(SearchConfig(**settings, jobs_on="cluster")) as found:
        assert isinstance(found, JobWorkers)
        assert found.folder == tmp_path / "search" / "jobs"
    for name, said in (("here", "this machine; leave it out"), ("cluter", "cluster")):
        with (
            pytest.raises(ConfigError, match=said),
            open_workers(SearchConfig(**settings, jobs_on=name)),
        ):
            pass
