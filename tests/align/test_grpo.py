"""GRPO: rewards go up on tasks that it never saw; nothing moves where nothing is better."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik import stages
from nemo_bielik.align.grpo import GrpoConfig, GrpoInputs, grpo
from nemo_bielik.cli import main
from nemo_bielik.errors import CheckpointError, ConfigError, DataError, StorageError
from nemo_bielik.manifest import MANIFEST_NAME, Manifest
from nemo_bielik.report.gather import read_metrics
from nemo_bielik.stages import work_directory

pytest.importorskip("trl", reason="GRPO needs the extra 'align'")

OWN = Path(__file__).parent / "rewards"
Make = Callable[..., Path]


def settings(**changes: Any) -> dict[str, Any]:
    from nemo_bielik.training import OptimConfig

    optim = OptimConfig(max_lr=5e-3, min_lr=1e-3, warmup_iters=1, weight_decay=0.0)
    return {
        "iters": 2,
        "prompts_per_step": 8,
        "group_size": 8,
        "micro_batch_size": 64,
        "max_answer_tokens": 3,
        "kl_beta": 0.0,
        "optim": optim,
    } | changes


def weights(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def are_equal(one: Path, other: Path) -> bool:
    """Whether two models have the same tensors, bit by bit."""
    import torch

    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(first[name].dtype == second[name].dtype for name in first)
    return all(
        torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8)) for name in first
    )


def test_the_reward_on_held_out_tasks_rises_with_every_seed(
    make_policy: Make,
    tasks: Path,
    held_out: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = make_policy(steps=20)
    for seed in (1, 2, 3):
        output = tmp_path / f"seed{seed}"
        config = settings(model=model, tasks=[tasks], held_out=[held_out], output=output)
        grpo(GrpoConfig(**config | {"iters": 40, "seed": seed}))
        results = Manifest.load(output).results
        before, after = results["reward_before"], results["reward_after"]
        assert before["tasks"] == after["tasks"] == 36
        assert after["reward"] > before["reward"] + 0.1
        assert after["by_kind"]["exact"]["reward"] == after["reward"]
        lines = read_metrics(output / "training" / "metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, 41))
        assert not are_equal(model, output)
        assert not work_directory(output).exists()
    printed = capfd.readouterr().out
    assert printed.count("reward after") == 3
    assert "grad_norm" not in printed  # TRL's own lines


def test_two_processes_learn_from_each_others_answers(
    make_policy: Make,
    tasks: Path,
    held_out: Path,
    write_tasks: Make,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """Every group's answers and rewards lie on both; a tenth of the tasks has a reward that fails.

    Thirty steps of eight prompts go twice over 120 tasks, with eight answers each.
    """
    monkeypatch.chdir(OWN)
    failing = [{"prompt": f"w{n} w{n}", "reward": "raising"} for n in range(12)]
    mixed = write_tasks([*tasks.read_text(encoding="utf-8").splitlines(), *failing])
    words = ["grpo", f"--model={make_policy(steps=20)}", f"--tasks={mixed}", "--iters=30"]
    words += [f"--held-out={held_out}", f"--output={tmp_path / 'out'}", "--max-answer-tokens=3"]
    words += ["micro_batch_size=4", "kl_beta=0", "optim.max_lr=5e-3", "optim.min_lr=1e-3"]
    words += ["optim.warmup_iters=1", "parallel.data=2"]
    words += ["grading.own=[own_rewards:raising]", "grading.unfinished=grade"]
    assert main(words) == 0
    results = Manifest.load(tmp_path / "out").results
    assert results["steps"] == 30
    assert results["reward_after"]["reward"] > results["reward_before"]["reward"] + 0.1
    assert results["rewards_skipped"] == {"raising gave KeyError": 12 * 2 * 8}


def test_a_constant_reward_leaves_every_byte_of_the_weights(
    make_policy: Make, tasks: Path, write_tasks: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(OWN)
    constant = write_tasks([{"prompt": f"w{n} w1", "reward": "tenth"} for n in range(12)])
    grading = {"own": ["own_rewards:tenth"], "unfinished": "grade"}
    from nemo_bielik.align.rewards.grading import GradingConfig

    for dtype, tied in (("float32", False), ("bfloat16", True)):
        model, output = make_policy(tied=tied, dtype=dtype), tmp_path / dtype
        config = settings(model=model, tasks=[constant], output=output, iters=3)
        grpo(GrpoConfig(**config, grading=GradingConfig(**grading)))
        lines = read_metrics(output / "training" / "metrics.jsonl")
        assert [line["groups_without_difference"] for line in lines] == [1, 1, 1]
        assert are_equal(model, output)


@pytest.fixture(scope="module")
def stopped(
    make_policy: Make, write_tasks: Make, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Settings of a run that stops itself at its first answers where a file says so."""
    from nemo_bielik.align.rewards.grading import GradingConfig

    flag = tmp_path_factory.mktemp("flag") / "stop"
    lines = [
        {"prompt": f"w{n} w{m}", "answer": f"w{n}", "reward": "stopping", "flag": str(flag)}
        for n in range(6)
        for m in range(4)
    ]
    grading = GradingConfig(own=["own_rewards:stopping"])
    changes = {"iters": 6, "updates_per_batch": 2, "loss": "dr_grpo", "kl_beta": 0.04}
    changes |= {"clip_low": 0.01, "clip_high": 0.01}
    model = make_policy(steps=20)
    return settings(model=model, tasks=[write_tasks(lines)], grading=grading, **changes) | {
        "flag": flag
    }


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    stopped: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(OWN)
    config = dict(stopped)
    flag = config.pop("flag")
    grpo(GrpoConfig(**config, output=tmp_path / "whole"))

    flag.touch()
    again = GrpoConfig(**config, output=tmp_path / "again")
    with pytest.raises(SystemExit) as stop:
        grpo(again)
    assert stop.value.code == 0
    work = work_directory(again.output)
    assert (work / "checkpoint-2").is_dir()  # not between two updates on the same answers
    torn = work / "checkpoint-4"
    torn.mkdir()
    (torn / "optimizer.pt").write_bytes(b"half")
    grpo(again)
    assert are_equal(tmp_path / "whole", again.output)
    whole, resumed = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(path)]
        for path in (
            tmp_path / "whole" / "training" / "metrics.jsonl",
            again.output / "training" / "metrics.jsonl",
        )
    )
    assert whole == resumed
    assert [line["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    assert max(line["kl"] for line in whole) > 0
    assert max(line["clipped"] for line in whole) > 0


def test_one_process_at_a_time_works_on_a_run(
    make_policy: Make, tasks: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    config = GrpoConfig(**settings(model=make_policy(), tasks=[tasks], output=tmp_path / "out"))
    manifest = GrpoInputs.open(config).manifest
    monkeypatch.setattr(stages, "_PATIENCE_SECONDS", 0.1)
    with stages.hold_work(config.output, manifest) as work:
        with pytest.raises(StorageError, match="out: another process works on it; wait"):
            grpo(config)
        assert [path.name for path in work.iterdir()] == [MANIFEST_NAME]


class Payload:
    """What runs where it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_nothing_in_a_checkpoint_is_run(
    stopped: dict[str, Any], tmp_path: Path, monkeypatch: Any, name: str
) -> None:
    monkeypatch.chdir(OWN)
    config = dict(stopped)
    config.pop("flag").touch()
    changed = GrpoConfig(**config, output=tmp_path / "changed")
    with pytest.raises(SystemExit):
        grpo(changed)
    place = work_directory(changed.output) / "checkpoint-2" / name
    assert place.is_file()
    place.write_bytes(pickle.dumps(Payload(tmp_path / "was here"), protocol=2))
    with pytest.raises(CheckpointError, match="remove the directory"):
        grpo(changed)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size is 1"),
        ({"micro_batch_size": 48}, "multiple of micro_batch_size"),
        ({"loss": "ppo"}, "allowed are grpo, dr_grpo"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"kl_beta": -1.0}, "kl_beta is -1.0"),
        ({"save_interval": 3, "updates_per_batch": 2}, "multiple of updates_per_batch"),
        ({"tasks": []}, "tasks is empty"),
        ({"max_answer_tokens": 32}, "knows 32 positions"),
        ({"prompts_per_step": 200, "micro_batch_size": 8}, "108 tasks for prompts_per_step 200"),
        ({"shard": True}, "shard=true needs parallel.data above 1"),
        ({"generation": "vllm"}, "generation=vllm needs"),
        ({"vllm_server": "host:8000"}, "vllm_server is"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    make_policy: Make, tasks: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        config = settings(model=make_policy(), tasks=[tasks], output=tmp_path / "out")
        grpo(GrpoConfig(**config | changes))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_tasks_and_answers(
    make_policy: Make,
    tasks: Path,
    held_out: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--model", str(make_policy()), "--tasks", str(tasks), "--output", str(tmp_path / "o")]
    words += [f"--held-out={held_out}", "--iters=27", "--max-answer-tokens=3", "--dry-run"]
    assert main(["grpo", *words]) == 0
    printed = capsys.readouterr().out
    assert "108 tasks, judged by exact" in printed
    assert "27 steps on 216 prompts (2.0 rounds), 1,728 answers of at most 3 tokens" in printed
    assert "36 held-out tasks, answered before and after" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_stops_where_the_run_would(
    make_policy: Make,
    tasks: Path,
    write_tasks: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hopeless = write_tasks([{"prompt": "w1", "answer": "w1\nw2", "reward": "exact"}])
    words = ["--model", str(make_policy()), "--output", str(tmp_path / "o"), "--dry-run"]
    words += ["--iters=11", "--max-answer-tokens=3"]
    for more, message in (
        ([f"--tasks={hopeless}"], "line 1: its own answer earns no reward"),
        ([f"--tasks={tasks}", f"--held-out={hopeless}"], "line 1: its own answer earns no reward"),
        ([f"--tasks={tasks}", f"--held-out={tmp_path / 'none'}"], "none: no such"),
        ([f"--tasks={tasks}", "--prompts-per-step=200"], "108 tasks for prompts_per_step 200"),
    ):
        assert main(["grpo", *words, *more]) == 2
        printed = capsys.readouterr().err
        assert message in printed and "Traceback" not in printed


def test_what_was_held_out_and_cannot_be_used_is_counted(
    make_policy: Make,
    tasks: Path,
    write_tasks: Make,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = {"prompt": "w1 w2", "answer": "w1", "reward": "exact"}
    mixed = write_tasks([good, {"prompt": "w1"}, good | {"answer": "w1\nw2"}])
    config = settings(model=make_policy(), tasks=[tasks], held_out=[mixed], output=tmp_path / "out")
    grpo(GrpoConfig(**config | {"malformed": "skip"}))
    results = Manifest.load(tmp_path / "out").results
    assert results["tasks_skipped"] == {}
    assert list(results["held_out_tasks_skipped"].values()) == [1, 1]
    assert results["reward_after"]["tasks"] == 1
    printed = capsys.readouterr().out
    assert "1 held out tasks skipped: its own answer earns no reward" in printed
