"""``bielik pipeline --executor``: the whole chain as the jobs of one experiment."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import nemo_run as run
import pytest

from nemo_bielik import cli
from nemo_bielik.align.assistant import AssistantSettings
from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.executors import build
from nemo_bielik.launch.experiment import without_input
from nemo_bielik.launch.slurm_site import SlurmSite
from nemo_bielik.launch.submit import job_table
from nemo_bielik.pipeline import PipelineConfig, pipeline_jobs
from nemo_bielik.recipes import minitron_7b, tiny

GIVEN = ["prepare", "score", "prune", "distill"]
JUDGED = ["evaluate-teacher", "evaluate-pruned", "evaluate-distilled"]
SITE = """\
[big]
kind = "slurm"
account = "physics"
partition = "gpu"
job_directory = "{folder}/jobs"
root = "/data"
gpus_per_node = 8
time = "1-00:00:00"
[big.stages.evaluate]
time = "02:00:00"
[big.stages.prune]
partition = "cpu"
gpus_per_node = 0
ranks_per_node = 1
"""


@pytest.fixture
def sites(tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(folder=tmp_path))
    return f"--site={path}"


def jobs(**changes):
    return pipeline_jobs(PipelineConfig(**changes))


def test_a_given_models_chain_starts_at_its_text(tmp_path):
    made = jobs(output=tmp_path, model=tmp_path / "model", texts=[tmp_path / "text.txt"])
    assert [job.label for job in made] == [*GIVEN, *JUDGED, "report"]
    assert {job.label: job.after for job in made} == {
        "prepare": (),
        "score": ("prepare",),
        "prune": ("score",),
        "distill": ("prune",),
        "evaluate-teacher": ("prepare",),
        "evaluate-pruned": ("prune",),
        "evaluate-distilled": ("distill",),
        "report": tuple(JUDGED),
    }


def test_without_a_model_one_is_trained_first(tmp_path):
    made = {job.label: job for job in jobs(output=tmp_path)}
    assert list(made)[:4] == ["prepare", "initialize", "train", "score"]
    assert made["train"].after == ("initialize",)
    assert made["evaluate-teacher"].after == ("train",)
    assert made["train"].config.model == made["initialize"].config.output


ALIGNED = ("tokenize-instructions", "sft", "tokenize-preferences", "dpo", "grpo")


def aligning(tmp_path, *names, **changes):
    """The jobs of a chain on these data for an assistant, by label."""
    data = {name: [tmp_path / f"{name}.jsonl"] for name in names}
    given = {"model": tmp_path / "model", "texts": [tmp_path / "text.txt"]}
    assistant = AssistantSettings(**data, **changes)
    return {job.label: job for job in jobs(output=tmp_path, **given, assistant=assistant)}


def test_with_conversations_pairs_and_tasks_it_ends_at_an_assistant(tmp_path):
    made = aligning(tmp_path, "conversations", "preferences", "tasks", malformed="skip")
    assert tuple(made)[4:9] == ALIGNED
    assert {label: made[label].after for label in ALIGNED} == {
        "tokenize-instructions": ("prepare",),
        "sft": ("distill", "tokenize-instructions"),
        "tokenize-preferences": ("prepare",),
        "dpo": ("sft", "tokenize-preferences"),
        "grpo": ("dpo",),
    }
    for stage in ("sft", "dpo"):
        tokens = made[made[stage].after[1]].config
        assert made[stage].config.train_data == [tokens.output]
        assert tokens.context == made[stage].config.sequence_length
        assert tokens.malformed == made["grpo"].config.malformed == "skip"
    assert made["sft"].config.model == made["distill"].config.output
    assert made["sft"].config.tokenizer == tmp_path / "model"
    assert made["dpo"].config.model == made["sft"].config.output
    assert made["grpo"].config.model == made["dpo"].config.output
    for name, before in (("fine-tuned", "sft"), ("aligned", "dpo"), ("aligned-grpo", "grpo")):
        judged = made[f"evaluate-{name}"]
        assert judged.after == (before,) and judged.config.model == made[before].config.output


def test_a_stage_without_data_is_left_out(tmp_path):
    alone = aligning(tmp_path, "conversations")
    assert not {"dpo", "grpo", "evaluate-aligned"} & set(alone)
    rewarded = aligning(tmp_path, "conversations", "tasks")
    assert rewarded["grpo"].config.model == rewarded["sft"].config.output
    with pytest.raises(ConfigError, match=r"assistant\.preferences needs assistant\.conversations"):
        aligning(tmp_path, "preferences")
    with pytest.raises(ConfigError, match=r"assistant\.dpo\.eval_interval is 5; a chain holds no"):
        aligning(tmp_path, "conversations", dpo=replace(tiny.preferences(), eval_interval=5))


def test_every_job_starts_from_what_one_before_it_writes(tmp_path):
    """The paths that a job reads inside the run are the outputs of the jobs that it waits for."""
    run_directory = tmp_path / "run"
    made = {job.label: job for job in jobs(output=run_directory)}
    written = {label: job.config.output for label, job in made.items()}
    for label, job in made.items():
        read = [getattr(job.config, name, None) for name in ("model", "scores", "teacher")]
        before, waiting = set(), list(job.after)
        while waiting:
            before |= {one := waiting.pop()}
            waiting += made[one].after
        for path in read:
            if isinstance(path, Path):
                assert path in {written[one] for one in before}, (label, path)


def test_every_job_has_the_size_of_its_stage():
    config = minitron_7b.pipeline()
    made = {job.label: job.ranks for job in pipeline_jobs(config)}
    assert (made["score"], made["distill"], made["prune"]) == (8, 16, 1)
    assert {made[label] for label in ("prepare", *JUDGED, "report")} == {1}


def test_the_dry_run_shows_jobs_sizes_order_and_scripts(sites, tmp_path, capfd):
    words = [
        "pipeline",
        "--factory=minitron_7b_assistant",
        "--executor=big",
        "--job-name=mine",
        sites,
    ]
    assert cli.main([*words, "executor.distill.time=3-00:00:00", "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert "# mine: 16 jobs" in said
    aligned = ("evaluate-fine-tuned", "evaluate-aligned", "evaluate-aligned-grpo")
    root = "/data/runs/bielik-minitron-7b"
    for job, size, after, written in (
        ("score", "1 × 8", "prepare", f"{root}/scores"),
        ("prune", "1 × 1", "score", f"{root}/models/pruned"),
        ("distill", "2 × 8", "prune", f"{root}/models/distilled"),
        ("sft", "2 × 8", "distill, tokenize-instructions", f"{root}/models/fine-tuned"),
        ("dpo", "2 × 8", "sft, tokenize-preferences", f"{root}/models/aligned"),
        ("grpo", "2 × 8", "dpo", f"{root}/models/aligned-grpo"),
        ("report", "1 × 1", ", ".join((*JUDGED, *aligned)), f"{root}/report.html"),
    ):
        assert re.search(rf"^ *{job} +{size} +{after} +{written}$", said, re.MULTILINE), said
    scripts = dict(re.findall(r"^# (\S+\.sh)\n(.*?)(?=^# \S+\.sh$|\Z)", said, re.S | re.M))
    assert len(scripts) == 32  # what Slurm gets and what each rank runs
    for name, text in scripts.items():
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    for name, options in {
        "distill_sbatch.sh": ("nodes=2", "gpus-per-node=8", "time=3-00:00:00", "partition=gpu"),
        "grpo_sbatch.sh": ("nodes=2", "gpus-per-node=8", "ntasks-per-node=8"),
        "score_sbatch.sh": ("nodes=1", "gpus-per-node=8", "time=1-00:00:00"),
        "evaluate-distilled_sbatch.sh": ("nodes=1", "gpus-per-node=1", "time=02:00:00"),
        "prune_sbatch.sh": ("nodes=1", "ntasks-per-node=1", "partition=cpu"),
    }.items():
        for option in options:
            assert f"#SBATCH --{option}\n" in scripts[name], (name, option)
    assert "gpus-per-node" not in scripts["prune_sbatch.sh"]
    assert "kill-on-invalid-dep=yes" in scripts["prune_sbatch.sh"]
    assert "kill-on-invalid-dep" not in scripts["prepare_sbatch.sh"]  # it waits for nothing
    assert not (tmp_path / "jobs" / "experiments" / "mine").exists()


def test_a_stage_that_the_site_cannot_hold_is_refused_before_anything_is_submitted(tmp_path):
    site = SlurmSite(account="a", job_directory=tmp_path / "jobs", gpus_per_node=8, max_nodes=1)
    with pytest.raises(cli.BielikError, match="16 ranks, 2 nodes of 8, but max_nodes is 1"):
        job_table(pipeline_jobs(minitron_7b.pipeline()), site, "mine")
    assert not (tmp_path / "jobs").exists()


def test_nemo_runs_own_experiment_takes_the_jobs(tmp_path, monkeypatch):
    """As docs/launch/slurm.md shows it."""
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    site = SlurmSite(account="a", job_directory=tmp_path, root=tmp_path, gpus_per_node=8)
    made = jobs(output=tmp_path, model=tmp_path / "m", texts=[tmp_path / "t"])
    quiet = {"clean_mode": True, "enable_goodbye_message": False}
    with without_input(), run.Experiment("own", **quiet) as experiment:
        for task in made:
            executor, script = build(site, task, "own")
            after = list(task.after)
            experiment.add(run.Script(inline=script), executor, name=task.label, dependencies=after)
        experiment.dryrun(log=False)
    assert [job.id for job in experiment.jobs] == [job.label for job in made]
    assert experiment.jobs[-1].dependencies == JUDGED


def test_a_stage_that_fails_stops_those_after_it_and_the_status_says_so(
    chain_words, tmp_path, capfd
):
    (tmp_path / "site.toml").write_text(
        f"[here]\nkind = 'local'\njob_directory = '{tmp_path / 'home'}'\n"
    )
    (tmp_path / "text.txt").write_text("jeden dokument to za mało", encoding="utf-8")
    site = f"--site={tmp_path / 'site.toml'}"
    asked = ["pipeline", *chain_words, "--executor=here", "--job-name=mine", site]
    assert cli.main(asked) == cli.STATUS_USER_ERROR
    assert "prepare ended as failed" in capfd.readouterr().err
    assert cli.main(["launch", "status", "mine", site]) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0].startswith("prepare  FAILED")
    assert said[1:] == [f"{label}  NOT SUBMITTED" for label in [*GIVEN[1:], *JUDGED, "report"]]
    assert cli.main(["launch", "logs", "mine", site]) == 0
    logs = capfd.readouterr().out
    assert "too few documents" in logs and "==> report <==" in logs
    assert cli.main(["launch", "cancel", "mine", site]) == 0
    assert not (tmp_path / "run" / "scores").exists()
