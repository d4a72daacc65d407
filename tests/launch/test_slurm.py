"""Slurm for real: a controller on this machine takes, stops, queues again and finishes our jobs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.commands import find_command, load
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.launch.local import free_port
from nemo_bielik.launch.slurm_site import ContainerSettings, SlurmSite, SSHSettings
from nemo_bielik.launch.submit import preview, submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.options import parse_config
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pipeline import PipelineConfig, pipeline_jobs
from nemo_bielik.recipes.catalog import RECIPES
from nemo_bielik.stages import work_directory
from nemo_bielik.training import OptimConfig

ITERS = 250
AXES = ("tensor", "pipeline", "context", "data")
GRES = next(r for r in RECIPES if (r.stage, r.name) == ("distill", "minitron_7b"))
SMALL = {"people": 20, "cloze_items": 20, "pairs_per_phenomenon": 4}
SMALL |= {f"{part}_documents": 20 for part in ("train", "recovery", "calibration")}
SMALL |= {"validation_documents": 20, "test_documents": 20}


@pytest.fixture(scope="module")
def site(tmp_path_factory, cluster):
    """The cluster as a site file describes it, from its login node."""
    return SlurmSite(
        account="physics",
        job_directory=tmp_path_factory.mktemp("jobs"),
        ranks_per_node=2,
        time="00:30:00",
        python=sys.executable,
    )


def site_file(tmp_path, site):
    path = tmp_path / "site.toml"
    path.write_text(
        f"[cluster]\nkind = 'slurm'\naccount = 'physics'\njob_directory = '{site.job_directory}'\n"
        f"ranks_per_node = 2\npython = '{sys.executable}'\n"
    )
    return path


def steps(output):
    metrics = work_directory(output) / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


@pytest.mark.timeout(900)
def test_a_preempted_distillation_is_queued_again_and_finishes(
    cluster, site, tmp_path, student, teacher, tokens, capfd
):
    config = DistillConfig(
        model=student,
        teacher=teacher,
        train_data=tokens,
        output=tmp_path / "student",
        iters=ITERS,
        sequence_length=16,
        global_batch_size=2,
        save_interval=ITERS,  # only a signal saves
        optim=OptimConfig(warmup_iters=1),
        parallel=ParallelConfig(data=2),
    )
    done = submit([Task("distill", config)], site, "recovery")
    job = done.jobs["distill"]
    cluster.wait(lambda: cluster.state(job) == "RUNNING", "the start of the job")
    words = ["--site", str(site_file(tmp_path, site))]
    assert cli.main(["launch", "status", "recovery", *words]) == 0
    assert f"distill  RUNNING  {job}  {done.directory}/distill" in capfd.readouterr().out

    cluster.wait(lambda: steps(config.output) > 20, "a training under way")
    cluster.run("scontrol", "requeue", job)
    cluster.wait(lambda: cluster.state(job) == "PENDING", "the end of the first start")
    saved = work_directory(config.output) / "checkpoints" / "latest_checkpointed_iteration.txt"
    stopped_at = int(saved.read_text())
    assert 20 < stopped_at < ITERS
    assert not config.output.exists()
    cluster.start_again(job)
    cluster.wait((config.output / "bielik_manifest.json").is_file, "the end of the training")
    cluster.wait(lambda: cluster.state(job) == "COMPLETED", "the end of the job")

    lines = (config.output / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, ITERS + 1))
    assert "Restarts=1" in cluster.run("scontrol", "show", "job", job)
    assert cli.main(["launch", "status", done.id, *words]) == 0
    assert "distill  COMPLETED" in capfd.readouterr().out
    assert cli.main(["launch", "logs", "recovery", *words]) == 0
    logs = capfd.readouterr().out
    assert "DUE TO JOB REQUEUE" in logs  # of the first start
    assert "job exited with code 0" in logs  # of the second


def world(output):
    return MakeWorldConfig(output=output, **SMALL)


def test_what_waits_for_a_failed_job_never_starts(cluster, site, tmp_path, capfd):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    tasks = [Task("world", world(tmp_path / "taken"), name="first")]
    tasks.append(Task("world", world(tmp_path / "second"), name="second", after=("first",)))
    site = SlurmSite(**vars(site) | {"requeues": 0})
    done = submit(tasks, site, "chain")
    cluster.wait(lambda: cluster.state(done.jobs["first"]) == "FAILED", "the failure")
    cluster.wait(lambda: cluster.state(done.jobs["second"]) == "CANCELLED", "the cancellation")
    assert not (tmp_path / "second").exists()


def chain(words):
    config = parse_config(PipelineConfig, words, "test")
    return pipeline_jobs(config)[:3]  # all eight run in test_chain.py


def test_a_chain_waits_for_its_forerunners_and_is_cancelled_as_one(
    cluster, site, tmp_path, chain_words, capfd
):
    held = SlurmSite(**vars(site) | {"sbatch": {"begin": "now+1hour"}})
    done = submit(chain(chain_words), held, "held")
    first, second, third = done.jobs.values()
    assert list(done.jobs) == ["prepare", "score", "prune"]
    for job, before in ((second, first), (third, second)):
        shown = cluster.run("scontrol", "show", "job", job)
        assert f"Dependency=afterok:{before}(unfulfilled)" in shown
    words = ["held", "--site", str(site_file(tmp_path, site))]
    assert cli.main(["launch", "status", *words]) == 0
    states = [line.split()[:3] for line in capfd.readouterr().out.splitlines()[-3:]]
    assert states == [[name, "PENDING", job] for name, job in done.jobs.items()]
    assert cli.main(["launch", "cancel", *words]) == 0
    for job in done.jobs.values():
        cluster.wait(lambda job=job: cluster.state(job) == "CANCELLED", "the cancellation")
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(900)  # Slurm lets a job that is queued again wait
def test_a_chain_runs_though_its_first_job_is_queued_again(
    cluster, site, tmp_path, chain_words, capfd
):
    """The first start of `prepare` fails; what waits for it is neither started nor given up."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$3" != prepare ] || [ "$SLURM_RESTART_COUNT" ] || exit 3\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    done = submit(chain(chain_words), SlurmSite(**vars(site) | {"python": str(python)}), "whole")
    first = done.jobs["prepare"]
    shown = ["scontrol", "show", "job", first]
    cluster.wait(lambda: "Restarts=1" in cluster.run(*shown), "the end of the first start")
    cluster.wait(lambda: cluster.state(first) == "PENDING", "the second start's place")
    assert not (tmp_path / "run" / "tokens").exists()
    assert cluster.state(done.jobs["score"]) == "PENDING"
    cluster.start_again(first)
    state = cluster.end(done.jobs["prune"])
    assert cli.main(["launch", "logs", "whole", "--site", str(site_file(tmp_path, site))]) == 0
    logs = capfd.readouterr().out
    assert state == "COMPLETED", logs
    assert (tmp_path / "run" / "models" / "pruned" / "bielik_manifest.json").is_file()
    headings = [line for line in logs.splitlines() if line.startswith("==>")]
    assert headings == [f"==> {name} <==" for name in done.jobs]
    assert logs.splitlines().count("job exited with code 3") == 1


def full_size_tasks(recipe):
    """A recipe's jobs; a search submits a trial's distillation when it has decided on it."""
    config, jobs = recipe.factory(), find_command(recipe.stage).jobs
    if recipe.stage == "search":
        paths = {"model": Path("trial"), "teacher": config.model, "output": Path("distilled")}
        data = {name: getattr(config, name) for name in ("train_data", "validation_data")}
        return [Task("distill", DistillConfig(**paths, **data, **config.recovery.fields()))]
    return load(jobs)(config) if jobs else [Task(recipe.stage, config)]


@pytest.fixture(scope="module")
def full_size_jobs(tmp_path_factory):
    """Every recipe for GPUs as sbatch would get it, once for each stage and layout."""
    found = {}
    for gpus in ({"gpus_per_node": 8}, {"gres": "gpu:h200:8"}):
        site = SlurmSite(
            account="physics",
            partition="gpu",
            job_directory=tmp_path_factory.mktemp("jobs"),
            root=Path("/data"),
            time="1-00:00:00",
            cpus_per_rank=12,
            sbatch={"exclusive": True},
            container=ContainerSettings(image="nemo:1", mounts=["/data:/data"]),
            **gpus,
        )
        for recipe in RECIPES if "gpus_per_node" in gpus else (GRES,):
            row = recipe.row()
            key = (recipe.stage, *(row[name] for name in ("nodes", *AXES)))
            if recipe.on_gpus and (key, *gpus) not in found:
                tasks = full_size_tasks(recipe)
                found[key, *gpus] = row["nodes"], preview(tasks, site, "full")
    return found


def test_the_controller_would_take_every_full_size_recipe(cluster, full_size_jobs, tmp_path):
    """Scripts are right for bash, and sbatch finds nodes for them, as many as the recipe says."""
    assert len(full_size_jobs) > 12
    for (key, _), (nodes, scripts) in full_size_jobs.items():
        batches = {name: text for name, text in scripts.items() if name.endswith("_sbatch.sh")}
        most = 0
        for name, batch in batches.items():
            path = tmp_path / name
            path.write_text(batch)
            subprocess.run(["bash", "-n", path], check=True)
            asked = ["sbatch", "--test-only", str(path)]
            done = subprocess.run(asked, capture_output=True, text=True)
            assert done.returncode == 0, f"{key} {name}: {done.stderr}"
            most = max(most, 1 + ("gpu[1-2]" in done.stderr))
        assert batches and most == nodes, key


@pytest.fixture(scope="module")
def login(cluster, tmp_path_factory):
    """An SSH server of this machine with keys of its own, and an ssh that knows its host key."""
    missing = [name for name in ("sshd", "ssh", "rsync", "ssh-keygen") if not shutil.which(name)]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here ('apt install openssh-server rsync')")
    folder = tmp_path_factory.mktemp("login")
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    port = free_port()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\n"
        f"AuthorizedKeysFile {folder}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nSetEnv SLURM_CONF={os.environ['SLURM_CONF']}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [str(shutil.which("sshd")), "-D", "-e", "-f", str(folder / "sshd_config")],
        stderr=subprocess.DEVNULL,
    )
    cluster.wait((folder / "pid").is_file, "the start of sshd")
    programs = folder / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(
        f'#!/bin/sh\nexec {shutil.which("ssh")} -o UserKnownHostsFile={folder}/known "$@"\n'
    )
    (programs / "ssh").chmod(0o755)
    yield SSHSettings(host="127.0.0.1", user="root", identity=folder / "user", port=port), programs
    server.terminate()
    server.wait()


def test_a_job_is_submitted_over_ssh(cluster, login, tmp_path, monkeypatch, capfd):
    ssh, programs = login
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "bielik_site.toml").write_text(
        f"[far]\nkind = 'slurm'\naccount = 'physics'\njob_directory = '{tmp_path / 'far'}'\n"
        f"ranks_per_node = 2\npython = '{sys.executable}'\n[far.ssh]\nhost = '{ssh.host}'\n"
        f"user = '{ssh.user}'\nport = {ssh.port}\nidentity = '{ssh.identity}'\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["launch", "check", "far"]) == 0, capfd.readouterr().out
    assert "LACKS" not in capfd.readouterr().out
    output = tmp_path / "world"
    words = [f"{name}={value}" for name, value in SMALL.items()]
    asked = ["world", f"--output={output}", *words, "--executor=far", "--job-name=far-world"]
    assert cli.main(asked) == 0
    cluster.wait((output / "bielik_manifest.json").is_file, "the end of the stage")
    (batch,) = (tmp_path / "far" / "experiments" / "far-world").rglob("world_sbatch.sh")
    assert (batch.parent / "world" / "code" / "nemo_bielik" / "cli.py").is_file()
    job = capfd.readouterr().out.split()[1]
    cluster.wait(lambda: cluster.state(job) == "COMPLETED", "the end of the job")
    assert cli.main(["launch", "status", "far-world"]) == 0
    assert f"world  COMPLETED  {job}  {batch.parent}/world" in capfd.readouterr().out
    assert cli.main(["launch", "logs", "far-world"]) == 0
    assert "job exited with code 0" in capfd.readouterr().out
