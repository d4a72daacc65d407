"""Lepton through its own client, against a workspace on this machine that checks every request."""

import os
import subprocess
from pathlib import Path

import lepton_server
import pytest

from nemo_bielik import cli
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.launch.fault_tolerance import FaultTolerance
from nemo_bielik.launch.lepton_site import LeptonMount, LeptonSite
from nemo_bielik.launch.submit import preview, submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig

SITE = """\
[lepton]
kind = "lepton"
node_group = "{group}"
resource_shape = "gpu.8xh200"
image = "nemo:1"
job_directory = "/shared/jobs"
[[lepton.mounts]]
path = "/"
mount_path = "/shared"
source = "node-nfs:shared"
[lepton.secrets]
HF_TOKEN = "{secret}"
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    with lepton_server.serving(tmp_path_factory.mktemp("storage")) as found:
        yield found


@pytest.fixture(autouse=True)
def logged_in(workspace, monkeypatch, tmp_path):
    """The client's own variables say where the workspace is."""
    monkeypatch.setenv("LEPTON_WORKSPACE_ID", "workspace")
    monkeypatch.setenv("LEPTON_WORKSPACE_TOKEN", lepton_server.TOKEN)
    monkeypatch.setenv("LEPTON_WORKSPACE_URL", workspace.url)
    monkeypatch.setenv("LEPTON_WORKSPACE_ORIGIN_URL", workspace.url)
    monkeypatch.chdir(tmp_path)
    yield
    assert workspace.complaints == []


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def submitted(workspace, home):
    """A distillation on two nodes, submitted once for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEMORUN_HOME", str(home))
        patch.setenv("LEPTON_WORKSPACE_ID", "workspace")
        patch.setenv("LEPTON_WORKSPACE_TOKEN", lepton_server.TOKEN)
        patch.setenv("LEPTON_WORKSPACE_URL", workspace.url)
        patch.setenv("LEPTON_WORKSPACE_ORIGIN_URL", workspace.url)
        site = lepton_site(
            secrets={"HF_TOKEN": "hf-token"},
            environment={"NCCL_DEBUG": "WARN"},
            image_pull_secrets=["registry"],
            retries=4,
            setup=["ulimit -l unlimited"],
        )
        return submit([distillation()], site, "exp-010")


def lepton_site(**changes):
    return LeptonSite(
        node_group="group",
        resource_shape="gpu.8xh200",
        image="nemo:1",
        job_directory="/shared/jobs",
        mounts=[LeptonMount(path="/", mount_path="/shared", source="node-nfs:shared")],
        **changes,
    )


def distillation():
    """A task of two nodes."""
    paths = {n: Path(f"/shared/{n}") for n in ("model", "teacher", "train_data", "output")}
    parallel = ParallelConfig(tensor=4, pipeline=2, data=2)
    config = DistillConfig(**paths, global_batch_size=64, save_interval=10, parallel=parallel)
    return Task("distill", config)


def test_fault_tolerance_starts_its_launcher_on_every_node_in_place_of_torchrun(monkeypatch, home):
    monkeypatch.setenv("NEMORUN_HOME", str(home))
    site = lepton_site(fault_tolerance=FaultTolerance())
    scripts = preview([distillation()], site, "watched")
    assert "torchrun" not in scripts["distill/launch_script.sh"]
    started = scripts["distill/scripts/distill.sh"]
    assert "fault_tolerance.launcher" in started
    assert "--nnodes=2 --nproc-per-node=8" in started
    # what the script of every node exports before
    assert "--rdzv-endpoint=$MASTER_ADDR:$MASTER_PORT" in started
    assert 'export MASTER_ADDR="' in scripts["distill/launch_script.sh"]
    done = subprocess.run(["bash", "-n"], input=started, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def the_job(workspace):
    created = [body for method, path, body in workspace.requests if (method, path) == POST]
    (job,) = [job for job in created if "data-mover" not in job["metadata"]["id"]]
    return job


POST = ("POST", "/jobs")


def test_the_job_asks_for_what_the_site_and_the_layout_say(workspace, submitted):
    spec = the_job(workspace)["spec"]
    assert (spec["completions"], spec["parallelism"]) == (2, 2)
    assert (spec["resource_shape"], spec["container"]["image"]) == ("gpu.8xh200", "nemo:1")
    assert spec["affinity"]["allowed_dedicated_node_groups"] == ["group-id"]
    assert spec["affinity"]["allowed_nodes_in_node_group"] == list(lepton_server.NODES)
    (mount,) = spec["mounts"]
    assert (mount["path"], mount["mount_path"], mount["from"]) == (
        "/",
        "/shared",
        "node-nfs:shared",
    )
    assert spec["image_pull_secrets"] == ["registry"]
    assert spec["max_job_failure_retry"] == 4
    assert spec["intra_job_communication"] is True


def test_secrets_go_by_name_and_variables_by_value(workspace, submitted):
    envs = {env["name"]: env for env in the_job(workspace)["spec"]["envs"]}
    assert envs["HF_TOKEN"]["value_from"] == {"secret_name_ref": "hf-token"}
    assert not envs["HF_TOKEN"].get("value")
    assert envs["NCCL_DEBUG"]["value"] == "WARN"


def stored(workspace):
    (script,) = workspace.storage.rglob("launch_script.sh")
    return script


def test_code_and_scripts_are_in_the_storage_before_the_job_starts(workspace, submitted):
    posts = [body["metadata"]["id"] for method, path, body in workspace.requests if path == "/jobs"]
    assert "data-mover" in posts[0]
    place = stored(workspace).parent
    assert (place / "code" / "nemo_bielik" / "launch" / "site.py").is_file()
    assert "-m nemo_bielik distill" in (place / "scripts" / "distill.sh").read_text()
    command = the_job(workspace)["spec"]["container"]["command"]
    inside = place.relative_to(workspace.storage)
    assert command == ["/bin/bash", f"/shared/{inside}/launch_script.sh"]


def test_a_node_needs_nothing_from_the_network_to_find_its_place(workspace, submitted, tmp_path):
    """The start script is run, with torchrun replaced by one that says what it was told."""
    script = stored(workspace)
    text = script.read_text().replace("/nemo_run", str(tmp_path / "nemo_run"))
    text = text.replace(
        f"/shared/{script.parent.relative_to(workspace.storage)}", str(script.parent)
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("torchrun", "wget", "curl"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (programs / name).chmod(0o755)
    node = {"PATH": f"{programs}:{os.environ['PATH']}", "LEPTON_JOB_WORKER_INDEX": "1"}
    node |= {"LEPTON_JOB_NAME": "job", "LEPTON_SUBDOMAIN": "job-svc"}
    text = text.replace("ulimit -l unlimited\n", "echo set up\n")
    done = subprocess.run(["bash", "-c", text], env=node, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "set up"
    (line,) = said[1:]
    assert line.startswith("torchrun --nnodes 2 --nproc-per-node 8 --node-rank 1 --master-addr ")
    assert "--master-addr job-0.job-svc --master-port 29400" in line
    assert line.endswith("/scripts/distill.sh")


def test_it_is_found_again_read_and_stopped(workspace, submitted, home, monkeypatch, capfd):
    monkeypatch.setenv("NEMORUN_HOME", str(home))
    assert cli.main(["launch", "status", "exp-010"]) == 0
    name = the_job(workspace)["metadata"]["id"]
    assert f"distill  RUNNING  {name}  /shared/jobs/experiments/exp-010" in capfd.readouterr().out
    assert cli.main(["launch", "logs", "exp-010"]) == 0
    assert capfd.readouterr().out == "step 1\nstep 2\n"
    assert cli.main(["launch", "cancel", "exp-010"]) == 0
    assert ("PATCH", f"/jobs/{name}", {"spec": {"stopped": True}}) in workspace.requests
    assert cli.main(["launch", "status", submitted.id]) == 0
    assert "distill  STOPPED" in capfd.readouterr().out
    assert cli.main(["launch", "logs", "exp-010"]) == 0  # stopped, not deleted: its logs stay
    assert "step 2" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("group", "secret", "status", "said"),
    [
        ("group", "hf-token", 0, "workspace"),
        ("gruop", "hf-token", 1, "the workspace has group"),
        ("group", "absent", 1, "the workspace has no secret of that name"),
    ],
)
def test_check_asks_the_workspace(tmp_path, capfd, group, secret, status, said):
    (tmp_path / "bielik_site.toml").write_text(SITE.format(group=group, secret=secret))
    assert cli.main(["launch", "check", "lepton"]) == status
    assert said in capfd.readouterr().out
