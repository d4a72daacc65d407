"""What would be submitted, read as a scheduler and a shell read it; and small jobs run for real."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import BielikError, ConfigError
from nemo_bielik.launch.fault_tolerance import FaultTolerance
from nemo_bielik.launch.site import LocalSite, NemoRunSite
from nemo_bielik.launch.slurm_site import ContainerSettings, SlurmSite, SSHSettings
from nemo_bielik.launch.submit import preview, submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.recipes.catalog import find_recipe
from nemo_bielik.training import LoggingConfig

SMALL_WORLD = {
    "people": 20,
    "cloze_items": 20,
    "pairs_per_phenomenon": 4,
    **{
        f"{part}_documents": 20
        for part in ("train", "recovery", "calibration", "validation", "test")
    },
}


def distillation(**parallel):
    paths = {name: Path(f"/data/{name}") for name in ("model", "teacher", "train_data", "output")}
    sizes = {"global_batch_size": 64, "save_interval": 100}
    return Task("distill", DistillConfig(**paths, **sizes, parallel=ParallelConfig(**parallel)))


def world(output):
    return Task("world", MakeWorldConfig(output=output, **SMALL_WORLD))


@pytest.fixture
def site(tmp_path):
    """Return a function that makes a cluster of 8 GPUs a node, changed as it is told."""

    def make(**changes):
        values = {"account": "physics", "job_directory": tmp_path / "jobs", "gpus_per_node": 8}
        return SlurmSite(**values | {"time": "04:00:00"} | changes)

    return make


def options(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", script, re.MULTILINE))


def check_syntax(scripts):
    for name, text in scripts.items():
        if text.startswith(("#!", "set ")):
            done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
            assert done.returncode == 0, f"{name}: {done.stderr}"


@pytest.mark.parametrize(
    ("parallel", "nodes", "per_node"),
    [
        ({}, "1", "1"),
        ({"tensor": 4}, "1", "4"),
        ({"tensor": 4, "pipeline": 2, "data": 2}, "2", "8"),
    ],
)
def test_a_slurm_job_asks_for_what_the_layout_needs(site, tmp_path, parallel, nodes, per_node):
    changes = {"partition": "gpu", "qos": "high", "stop_seconds": 90, "requeues": 3}
    scripts = preview([distillation(**parallel)], site(**changes), "night")
    check_syntax(scripts)
    batch = scripts["distill_sbatch.sh"]
    found = options(batch)
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == (
        nodes,
        per_node,
        per_node,
    )
    assert (found["account"], found["partition"], found["qos"]) == ("physics", "gpu", "high")
    assert (found["time"], found["signal"]) == ("04:00:00", "TERM@90")
    assert "--requeue" in batch
    assert "TORCHX_MAX_RETRIES=3" in batch
    assert not (tmp_path / "jobs" / "experiments" / "night").exists()  # a dry run leaves nothing


def test_a_typed_resource_follows_the_layout_too(site):
    scripts = preview([distillation(tensor=4)], site(gpus_per_node=0, gres="gpu:h200:8"), "night")
    assert options(scripts["distill_sbatch.sh"])["gres"] == "gpu:h200:4"


def test_a_container_gets_image_mounts_and_the_jobs_variables(site):
    container = ContainerSettings(image="registry/nemo:1", mounts=["/scratch:/scratch"])
    given = site(container=container, environment={"HF_HOME": "/a b"}, cpus_per_rank=12)
    batch = preview([distillation(tensor=8)], given, "night")["distill_sbatch.sh"]
    srun = batch.splitlines()[-16:]
    (line,) = [line for line in batch.splitlines() if line.startswith("srun --output")]
    assert "--container-image registry/nemo:1" in line
    assert "--container-mounts /scratch:/scratch," in line
    assert "--container-workdir /nemo_run/code" in line
    assert "--container-env HF_HOME,MASTER_ADDR,MASTER_PORT" in line
    assert "--cpus-per-task=12" in line, srun
    assert "export HF_HOME='/a b'" in batch
    assert "export MASTER_ADDR=$head_node" in batch


def test_ranks_take_their_place_from_slurm(site):
    rank = preview([distillation(tensor=8)], site(), "night")["distill/scripts/distill.sh"]
    code = "printf '%s ' $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE; exit"
    text = rank.replace("exec python3", f"{code}\nexec python3")
    place = {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16"}
    done = subprocess.run(["bash", "-c", text], env=place, capture_output=True, text=True)
    assert done.stdout == "9 1 16 8 ", done.stderr


def test_over_ssh_paths_lie_on_the_cluster_and_nothing_is_asked(site, tmp_path):
    ssh = SSHSettings(host="login.invalid", user="me", identity=tmp_path / "key")
    given = site(ssh=ssh, job_directory=Path("/scratch/jobs"))
    batch = preview([distillation()], given, "night")["distill_sbatch.sh"]
    assert options(batch)["output"].startswith("/scratch/jobs/experiments/night/night_")
    relative = DistillConfig(**vars(distillation().config) | {"output": Path("out")})
    with pytest.raises(ConfigError, match="output is 'out'; give an absolute path"):
        preview([Task("distill", relative)], given, "night")


def test_arrays_are_a_setting_away(site):
    scripts = preview([distillation(tensor=8)], site(array="1-8%1"), "night")
    check_syntax(scripts)
    assert options(scripts["distill_sbatch.sh"])["array"] == "1-8%1"


def test_a_profiled_training_records_some_steps_and_another_stage_all(site):
    jobs = [world(Path("/w")), distillation(tensor=8)]
    scripts = preview(jobs, site(profile=True), "night")
    check_syntax(scripts)
    assert "nsys profile" in scripts["world_sbatch.sh"]
    assert "capture-range" not in scripts["world_sbatch.sh"]  # nobody would start the capture
    assert "--capture-range=cudaProfilerApi" in scripts["distill_sbatch.sh"]
    assert "'logging.profile_steps=[10,12]'" in scripts["distill/scripts/distill.sh"]
    own = replace(jobs[1].config, logging=LoggingConfig(profile_steps=[3, 4]))
    scripts = preview([Task("distill", own)], site(profile=True), "night")
    assert "'logging.profile_steps=[3,4]'" in scripts["distill/scripts/distill.sh"]


def test_fault_tolerance_starts_the_ranks_of_the_engines_stages_alone(site, tmp_path):
    given = site(fault_tolerance=FaultTolerance(restarts=2), cpus_per_rank=12)
    jobs = [world(Path("/w")), distillation(tensor=4, pipeline=2, data=2)]
    scripts = preview(jobs, given, "night")
    check_syntax(scripts)
    assert "fault_tolerance.launcher" not in scripts["world/scripts/world.sh"]
    found = options(scripts["distill_sbatch.sh"])
    assert (found["nodes"], found["ntasks-per-node"], found["gpus-per-node"]) == ("2", "1", "8")
    assert found["cpus-per-task"] == "96"
    python = tmp_path / "python3"  # says what it is run as
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    place = {"SLURM_JOB_ID": "42", "MASTER_ADDR": "first", "MASTER_PORT": "1234"}
    place |= {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    script = scripts["distill/scripts/distill.sh"]
    done = subprocess.run(["bash", "-c", script], env=place, capture_output=True, text=True)
    words = done.stdout.splitlines()
    assert words[:2] == ["-m", "nvidia_resiliency_ext.fault_tolerance.launcher"], done.stderr
    assert {"--nnodes=2", "--nproc-per-node=8", "--max-restarts=2", "--rdzv-id=42"} <= {*words}
    assert "--rdzv-endpoint=first:1234" in words
    started = words.index("-m", 1)
    assert words[started : started + 3] == ["-m", "nemo_bielik", "distill"]
    assert "RANK=" not in script.replace("LOCAL_RANK=", "")  # the launcher gives them out


def test_a_chain_is_one_experiment(site):
    tasks = [world(Path("/w")), Task("distill", distillation().config, after=("world",))]
    assert {"world_sbatch.sh", "distill_sbatch.sh"} <= set(preview(tasks, site(), "night"))
    with pytest.raises(ConfigError, match="distill comes after 'world', which is no job before"):
        preview(tasks[1:], site(), "night")
    with pytest.raises(ConfigError, match="two jobs are called 'world'"):
        preview([tasks[0], tasks[0]], site(), "night")


@pytest.mark.parametrize(
    ("executor", "settings", "message"),
    [
        ("DokcerExecutor", {}, r"executor is 'DokcerExecutor' \(did you mean 'DockerExecutor'\?\)"),
        ("DockerExecutor", {"image": "x"}, "DockerExecutor has no field 'image'"),
    ],
)
def test_other_executors_are_checked_by_their_own_fields(executor, settings, message):
    site = NemoRunSite(executor=executor, settings=settings)
    with pytest.raises(ConfigError, match=message):
        preview([world(Path("/w"))], site, "night")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {}}, r"settings.workdir_pvc is missing"),
        (
            {"settings": {"workdir_pvc": "a"}},
            r"workdir_pvc_path is /nemo_run, where NeMo-Run links",
        ),
        ({"code": "packaged"}, r"code is 'packaged', but KubeflowExecutor sends no archive"),
        ({}, r"KubeflowExecutor cannot be used here: Invalid kube-config file"),
    ],
)
def test_what_kubernetes_would_not_run_is_refused(changes, message, monkeypatch):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", "/none")
    volume = {"workdir_pvc": "a", "workdir_pvc_path": "/a"}
    site = {"executor": "KubeflowExecutor", "code": "installed", "settings": volume} | changes
    with pytest.raises(ConfigError, match=message):
        preview([world(Path("/w"))], NemoRunSite(**site), "night")


@pytest.mark.skipif(importlib.util.find_spec("sky") is not None, reason="SkyPilot is installed")
def test_an_executor_whose_package_is_absent_says_so():
    with pytest.raises(
        ConfigError, match=r"^SkypilotExecutor cannot be used here: .*not installed"
    ):
        preview([world(Path("/w"))], NemoRunSite(executor="SkypilotExecutor"), "night")


def test_a_secret_of_another_executor_comes_from_the_environment(monkeypatch):
    with pytest.raises(ConfigError, match=r"settings.client_secret looks like a secret"):
        NemoRunSite(executor="DGXCloudExecutor", settings={"client_secret": "hunter2"})
    held = {"container_image": "nemo:1"}
    secrets = {"runtime": "BIELIK_TEST_SECRET"}  # of Docker's fields, one that is shown
    site = NemoRunSite(executor="DockerExecutor", settings=held, secrets=secrets)
    with pytest.raises(ConfigError, match=r"secrets.runtime: the environment variable BIELIK_TEST"):
        preview([world(Path("/w"))], site, "night")
    monkeypatch.setenv("BIELIK_TEST_SECRET", "hunter2")
    shown = preview([world(Path("/w"))], site, "night")["world: DockerExecutor"]
    assert "hunter2" not in shown
    assert "<BIELIK_TEST_SECRET>" in shown


def test_a_search_of_trials_with_several_ranks_is_not_one_job(tmp_path):
    config = find_recipe("search", "bielik_11b_v3")()
    cluster = NemoRunSite(executor="DockerExecutor", settings={"container_image": "nemo:1"})
    with pytest.raises(ConfigError, match=r"its stages have 16 ranks, its job has one; give jobs"):
        preview([Task("search", config)], cluster, "night")


def test_other_executors_are_taken_as_nemo_run_has_them():
    site = NemoRunSite(executor="DockerExecutor", settings={"container_image": "nemo:1"})
    scripts = preview([world(Path("/w"))], site, "night")
    assert "nemo:1" in scripts["world: DockerExecutor"]
    assert "-m nemo_bielik world" in scripts["world/scripts/world.sh"]


def test_a_local_job_runs_and_is_found_again(tmp_path, capfd):
    site = LocalSite(job_directory=tmp_path / "home")
    done = submit([world(tmp_path / "world")], site, "small-world")
    assert (tmp_path / "world" / "bielik_manifest.json").is_file()
    assert done.directory.parent == tmp_path / "home" / "experiments" / "small-world"
    (tmp_path / "site.toml").write_text(
        f"[local]\nkind = 'local'\njob_directory = '{tmp_path / 'home'}'\n"
    )
    capfd.readouterr()
    words = ["small-world", "--site", str(tmp_path / "site.toml")]
    assert cli.main(["launch", "status", *words]) == 0
    assert "world  SUCCEEDED" in capfd.readouterr().out
    assert cli.main(["launch", "status", *words[1:]]) == 0
    assert capfd.readouterr().out == f"{done.id}\n"
    assert cli.main(["launch", "logs", "smal-world", *words[1:]]) == cli.STATUS_USER_ERROR
    assert "did you mean 'small-world'?" in capfd.readouterr().err
    (done.directory / "_CONFIG").unlink()  # as of an experiment that was removed in part
    assert cli.main(["launch", "status", *words]) == cli.STATUS_USER_ERROR
    said = capfd.readouterr().err
    assert f"{done.directory}: NeMo-Run cannot read this experiment" in said
    assert said.count("\n") == 1


def test_torchrun_tries_a_recipe_and_leaves_nothing(tmp_path, student, teacher, tokens, capfd):
    """The one engine run of this file: torchrun's ranks, the recipe, and preflight all at once."""
    (tmp_path / "site.toml").write_text(
        f"[here]\nkind = 'local'\nranks = 'torchrun'\njob_directory = '{tmp_path / 'home'}'\n"
    )
    site = ["--site", str(tmp_path / "site.toml")]
    output = tmp_path / "models" / "student"
    output.parent.mkdir()
    words = [f"model={student}", f"teacher={teacher}", f"output={output}", f"train_data={tokens}"]
    words += [f"validation_data={tokens}", "sequence_length=32", "global_batch_size=4"]
    words += ["micro_batch_size=2", "parallel.data=2", "preflight.iters=2", "preflight.megabytes=1"]
    asked = ["launch", "preflight", "distill", "--factory=tiny", "--executor=here"]
    assert cli.main([*asked, "--job-name=trial", *words, *site]) == 0
    capfd.readouterr()
    assert cli.main(["launch", "logs", "trial", *site]) == 0
    said = capfd.readouterr().out
    assert "2 ranks, CPU (gloo)" in said
    assert re.search(r"all-reduce over 2 ranks: [\d.]+ GB/s bus bandwidth", said)
    assert f"{tiny.recovery().iters} steps" in said
    assert re.search(r"\bGO$", said, re.MULTILINE)
    assert list(output.parent.iterdir()) == []
    (executor,) = (tmp_path / "home").rglob("*executor.yaml")
    assert "Torchrun" in executor.read_text()


def test_a_chain_stops_at_a_job_that_failed(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    tasks = [world(tmp_path / "taken")]
    tasks.append(Task("world", world(tmp_path / "next").config, name="next", after=("world",)))
    with pytest.raises(BielikError, match=r"world ended as failed; .*bielik launch logs chain_"):
        submit(tasks, LocalSite(job_directory=tmp_path / "home"), "chain")
    assert not (tmp_path / "next").exists()


def test_the_command_line_shows_everything_and_submits_nothing(tmp_path, capfd):
    (tmp_path / "site.toml").write_text(
        f"[big]\nkind = 'slurm'\naccount = 'a'\njob_directory = '{tmp_path / 'jobs'}'\n"
        "gpus_per_node = 8\n"
    )
    words = ["distill", "--factory", "tiny", "--model=/m", "--teacher=/t", "--train-data=/d"]
    words += ["--output=/o", "validation_data=/v", "parallel.data=16", "micro_batch_size=1"]
    words += ["--executor", "big", "--site", str(tmp_path / "site.toml"), "--dry-run"]
    assert cli.main([*words, "executor.time=00:20:00", "save_interval=40"]) == 0
    said = capfd.readouterr().out
    assert "data: 16" in said  # the settings, resolved
    assert options(said)["time"] == "00:20:00"
    assert "parallel.data=16 \\\n" in said  # and in the job's script
    assert not list(tmp_path.rglob("*_sbatch.sh"))
    assert cli.main([*words, "parallel.tensor=-3"]) == cli.STATUS_USER_ERROR
    assert "parallel.tensor is -3" in capfd.readouterr().err


def test_python_is_the_one_that_runs_this():
    scripts = preview([world(Path("/w"))], LocalSite(), "here")
    assert f"exec {sys.executable} -m nemo_bielik world" in scripts["world/scripts/world.sh"]
    assert json.dumps(scripts)
