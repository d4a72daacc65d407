"""NVIDIA's ``ft_launcher`` for real on this machine: a rank that is lost does not end the job."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.fault_tolerance import FaultTolerance
from nemo_bielik.launch.site import LocalSite, NemoRunSite
from nemo_bielik.stages import work_directory

ITERS = 60
PATIENCE_SECONDS = 240


def test_the_launchers_words_are_ones_that_it_takes():
    """Read by its own parser: nodes, ranks, restarts and the timeouts of Bridge's sections."""
    words = FaultTolerance(restarts=2, step_seconds=60).words(2, 8, "first:1234", "42")
    code = (
        "import sys; from nvidia_resiliency_ext.fault_tolerance import launcher, config\n"
        "given = launcher.parse_args([*sys.argv[1:], '-m', 'module'])\n"
        "found = config.FaultToleranceConfig.from_args(given)\n"
        "print(given.nnodes, given.nproc_per_node, given.max_restarts, given.rdzv_endpoint,\n"
        "      given.rdzv_id, given.module, found.rank_section_timeouts,\n"
        "      found.rank_out_of_section_timeout)\n"
    )
    _, *options = list(words)
    asked = [sys.executable, "-W", "ignore", "-c", code, *shlex.split(" ".join(options))]
    done = subprocess.run(asked, capture_output=True, text=True)
    sections = {"setup": 1800.0, "step": 60.0, "checkpointing": 1800.0}
    assert done.stdout.strip() == f"2 8 2 first:1234 42 True {sections} 1800.0", done.stderr


def rank(parent, number):
    """Return the process of a rank below `parent`; its own variables tell it from its helpers."""
    for process in psutil.Process(parent).children(recursive=True):
        words, variables = process.cmdline(), process.environ()
        if "nemo_bielik" in words and variables.get("RANK") == str(number):
            return process
    return None


def steps(output):
    metrics = work_directory(output) / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


def wait_for(condition, process, what):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"the job ended before {what}"
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def test_a_killed_rank_is_started_again_within_the_job(student, teacher, tokens, tmp_path):
    (tmp_path / "site.toml").write_text(
        f"[here]\nkind = 'local'\njob_directory = '{tmp_path / 'home'}'\n[here.fault_tolerance]\n"
    )
    output = tmp_path / "student"
    sizes = {"iters": ITERS, "sequence_length": 16, "global_batch_size": 2, "save_interval": 20}
    words = [f"{name}={value}" for name, value in sizes.items()]
    words += [f"model={student}", f"teacher={teacher}", f"train_data={tokens}", f"output={output}"]
    words += ["parallel.data=2", "optim.warmup_iters=1", "--executor=here", "--job-name=watched"]
    command = [sys.executable, "-m", "nemo_bielik", "distill", *words]
    log = (tmp_path / "log").open("w+")
    site = f"--site={tmp_path / 'site.toml'}"
    with subprocess.Popen([*command, site], stdout=log, stderr=log) as job:
        try:
            wait_for(lambda: steps(output) > 42, job, "a step after the second checkpoint")
            os.kill(rank(job.pid, 1).pid, signal.SIGKILL)
            assert job.wait(PATIENCE_SECONDS) == 0, (tmp_path / "log").read_text()[-3000:]
        finally:
            job.terminate()
    lines = (output / "training" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, ITERS + 1))
    (said,) = (tmp_path / "home").rglob("combined.log")
    assert "will restart worker group" in said.read_text()
    assert "starting from the beginning" not in said.read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FaultTolerance(restarts=0), "restarts is 0; it must be at least 1"),
        (lambda: LocalSite(fault_tolerance=FaultTolerance(), profile=True), "exclude each other"),
        (
            lambda: NemoRunSite(executor="DockerExecutor", fault_tolerance=FaultTolerance()),
            "set launcher = 'ft' here",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
