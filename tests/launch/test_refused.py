"""Submissions that the place refuses: one line says why, and what was taken is found again."""

import os

import pytest

from nemo_bielik import cli
from nemo_bielik.launch.local import free_port
from nemo_bielik.recipes.catalog import RECIPES

#: Takes what is submitted until LIMIT jobs are known, as a cluster's quality of service does.
SBATCH = """\
#!/bin/sh
known=$(wc -l < FOLDER/queue)
if [ "$known" -ge LIMIT ]; then
  echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2
  echo "sbatch: error: Job violates accounting/QOS policy" >&2
  exit 1
fi
echo $((known + 41)) | tee -a FOLDER/queue
"""
SQUEUE = "#!/bin/sh\necho PENDING\n"
SCANCEL = '#!/bin/sh\necho "$@" >> FOLDER/cancelled\n'
SLURM = "kind = 'slurm'\naccount = 'a'\nroot = '/data'\ngpus_per_node = 8\ncode = 'installed'\n"
AWAY = "job_directory = '/proc/away'"

DOCKER = "kind = 'nemo_run'\nexecutor = 'DockerExecutor'\nsettings = {container_image = 'x'}"
DOCKER += "\nroot = '/data'"


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Return a function that puts a scheduler of so many places on the search path."""

    def make(limit):
        programs = tmp_path / "programs"
        programs.mkdir()
        (tmp_path / "queue").touch()
        for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "scancel": SCANCEL}.items():
            text = text.replace("FOLDER", str(tmp_path)).replace("LIMIT", str(limit))
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    return make


def site_file(tmp_path, *lines):
    path = tmp_path / "site.toml"
    path.write_text("\n".join(["[cluster]", SLURM, *lines]))
    return f"--site={path}"


def submitted(recipe, site):
    stage, name = recipe
    words = [stage, f"--factory={name}", "--executor=cluster", "--job-name=mine", site]
    return cli.main(words)


def test_of_a_chain_that_is_refused_in_the_middle_the_queued_jobs_are_found(queue, tmp_path, capfd):
    queue(limit=1)
    site = site_file(tmp_path, f"job_directory = '{tmp_path / 'jobs'}'")
    assert submitted(("pipeline", "minitron_7b"), site) == cli.STATUS_USER_ERROR
    (line,) = capfd.readouterr().err.splitlines()
    (kept,) = (tmp_path / "jobs" / "experiments" / "mine").iterdir()
    assert line == (
        "error: score was not submitted: sbatch: error: Job violates accounting/QOS policy; "
        f"prepare was: `bielik launch cancel {kept.name}` stops it"
    )
    assert cli.main(["launch", "status", "mine", site]) == 0
    states = [line.split()[:3] for line in capfd.readouterr().out.splitlines()]
    assert states[:2] == [["prepare", "PENDING", "41"], ["score", "NOT", "SUBMITTED"]]
    assert cli.main(["launch", "cancel", "mine", site]) == 0
    assert (tmp_path / "cancelled").read_text() == "41\n"


def test_a_single_job_that_is_refused_leaves_nothing(queue, tmp_path, capfd):
    queue(limit=0)
    site = site_file(tmp_path, f"job_directory = '{tmp_path / 'jobs'}'")
    assert submitted(("prune", "minitron_7b"), site) == cli.STATUS_USER_ERROR
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(
        "prune was not submitted: sbatch: error: Job violates accounting/QOS policy"
    )
    assert not (tmp_path / "jobs" / "experiments").exists()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([AWAY], "No such file or directory: '/proc/away'"),
        (
            [
                "job_directory = '/x'",
                "[cluster.ssh]",
                "host = '127.0.0.1'",
                "user = 'me'",
                "port = {port}",
            ],
            "Unable to connect to port",
        ),
    ],
)
def test_a_place_that_cannot_be_reached_is_told_in_one_line(tmp_path, capfd, lines, reason):
    site = site_file(tmp_path, *(line.format(port=free_port()) for line in lines))
    assert submitted(("prune", "minitron_7b"), site) == cli.STATUS_USER_ERROR
    said = capfd.readouterr().err
    assert "error: prune was not submitted: " in said and reason in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe.stage}-{recipe.name}")
def test_every_recipes_script_is_shown_where_its_files_are_not(
    recipe, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    words = [recipe.stage, f"--factory={recipe.name}", "--executor=local", "--dry-run"]
    assert cli.main(words) == 0, capfd.readouterr().err
    first = "prepare" if recipe.stage == "pipeline" else recipe.stage
    assert f"-m nemo_bielik {first} \\\n" in capfd.readouterr().out


@pytest.mark.parametrize(
    "site", ["kind = 'local'\njob_directory = 'jobs'", f"{SLURM}{AWAY}", DOCKER]
)
def test_a_dry_run_writes_nothing(site, tmp_path, monkeypatch, capfd):
    """Not where the jobs would be kept either, which for Slurm may be on its machines alone."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "site.toml").write_text(f"[cluster]\n{site}\n")
    words = ["--executor=cluster", f"--site={tmp_path / 'site.toml'}", "--dry-run"]
    assert cli.main(["prune", "--factory=minitron_7b", *words]) == 0, capfd.readouterr().err
    left = {path.name for path in tmp_path.rglob("*")}
    assert left <= {"here", "site.toml", "nemo_run"}  # that is NeMo-Run's own home, and empty
