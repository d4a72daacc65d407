"""The `bielik` command: dispatch, exit statuses, one-line errors, dry runs and several ranks."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nemo_bielik import cli, commands
from nemo_bielik.commands import Command
from nemo_bielik.errors import DataError
from nemo_bielik.launch.local import JOB_VARIABLE
from nemo_bielik.recipes.catalog import find_recipe

MODULE = "tests_dummy_stage"
DUMMY_STAGE = '''
import os, sys, time
from dataclasses import dataclass, field
from nemo_bielik.errors import DataError

@dataclass(kw_only=True)
class Parallel:
    processes: int = 1

@dataclass(kw_only=True)
class Config:
    """A stage for tests."""
    value: int = 0
    fail: str = ""
    parallel: Parallel = field(default_factory=Parallel)

def run(config):
    rank = int(os.environ.get("RANK", "0"))
    if config.fail == "all" or config.fail == str(rank):
        raise DataError("no such corpus")
    if config.fail == "stopped":
        sys.exit(0)  # as Megatron-Bridge does when it has saved on SIGTERM
    if config.fail == "interrupt":
        raise KeyboardInterrupt
    if config.fail == "sleep":
        os.write(1, b"sleeping\\n")
        time.sleep(60)
    line = f"rank {rank} of {os.environ.get('WORLD_SIZE', '1')}: {config.value}\\n"
    os.write(1, line.encode())  # one write: lines of several ranks do not mix
    return config.value

def describe(config):
    return [f"would count to {config.value}"]
'''
COMMAND_LINE = f"""
import sys
from nemo_bielik import cli, commands
stage = cli.Command("stage", "{MODULE}:Config", "{MODULE}:run", "test", "{MODULE}:describe")
missing = cli.Command("missing", "nemo_bielik.nowhere:A", "nemo_bielik.nowhere:b", "test")
commands.COMMANDS = (stage, missing)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which every `bielik` process has the dummy commands."""
    (tmp_path / f"{MODULE}.py").write_text(DUMMY_STAGE)
    (tmp_path / "sitecustomize.py").write_text(COMMAND_LINE)
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    search = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    return clean | {"PYTHONPATH": os.pathsep.join(search)}


def bielik(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nemo_bielik", *argv]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def only_line(text: str) -> str:
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert f"  {command.name} " in text
        assert command.help in text


def test_a_group_lists_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", "--help"]) == 0
    text = capsys.readouterr().out
    assert "  launch status " in text and "  distill " not in text


def test_the_table_has_no_duplicates_and_names_modules_of_this_package() -> None:
    names = [command.name for command in cli.COMMANDS]
    assert len(names) == len(set(names))
    for command in cli.COMMANDS:
        for target in (command.config, command.function, command.describe):
            assert target is None or (target.startswith("nemo_bielik.") and target.count(":") == 1)


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_resolves(command: Command) -> None:
    config_class = cli.load(command.config)
    assert config_class.__doc__, f"{command.config} describes itself in --help"
    for target in (command.function, command.describe):
        assert target is None or callable(cli.load(target))


def test_a_command_of_two_words_is_found_by_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.find_command("launch", ["check", "x"]).name == "launch check"
    found = commands.find_command("launch", ["preflight", "distill", "check"])
    assert (found.name, found.stage) == ("launch preflight distill", "distill")
    assert cli.main(["launch", "chek"]) == cli.STATUS_USER_ERROR
    said = only_line(capsys.readouterr().err)
    assert said.startswith("error: launch: 'chek' is not one of init, check, status, ")
    assert said.endswith("(did you mean 'check'?)")
    assert cli.main(["launch", "preflight", "distil"]) == cli.STATUS_USER_ERROR
    assert "(did you mean 'preflight distill'?)" in capsys.readouterr().err


def test_a_stage_that_a_signal_stopped_has_ended_well_but_its_job_has_not(
    environment: dict[str, str],
) -> None:
    for job, status in (({}, 0), ({JOB_VARIABLE: "1"}, 128 + signal.SIGTERM)):
        result = bielik(environment | job, "stage", "--fail", "stopped")
        assert result.returncode == status
        assert only_line(result.stderr) == "stopped by a signal; the same command continues"


def test_a_recipe_gives_what_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["distill", "--factory", "tiny", "--model=/m", "optim.max_lr=0.5", "--dry-run"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    recipe = find_recipe("distill", "tiny")()
    assert 'model: "/m"' in said and "max_lr: 0.5" in said  # said here
    assert f"warmup_iters: {recipe.optim.warmup_iters}" in said  # beside it, the recipe's
    assert f"iters: {recipe.iters}" in said and f'teacher: "{recipe.teacher}"' in said
    assert cli.main(["distill", "--factory", "tyni", "--dry-run"]) == cli.STATUS_USER_ERROR
    assert "(did you mean 'tiny'?)" in only_line(capsys.readouterr().err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bielik ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluat"], "error: unknown command 'evaluat' (did you mean 'evaluate'?)"),
        (["--hlep"], "error: unknown option '--hlep' (did you mean '--help'?)"),
    ],
)
def test_an_unknown_word_gets_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == cli.STATUS_USER_ERROR
    captured = capsys.readouterr()
    assert only_line(captured.err).startswith(message)
    assert captured.out == ""


def test_a_function_may_return_an_exit_status(environment: dict[str, str]) -> None:
    assert bielik(environment, "stage", "--value", "0").returncode == 0
    assert bielik(environment, "stage", "--value", "3").returncode == 3


def test_unknown_options_and_settings_get_one_line(environment: dict[str, str]) -> None:
    for argv, hint in (
        (["stage", "--vaule", "1"], "'--value'"),
        (["stage", "parallel.proceses=2"], "'processes'"),
    ):
        result = bielik(environment, *argv)
        assert result.returncode == 2
        line = only_line(result.stderr)
        assert line.startswith("error: bielik stage: unknown")
        assert f"did you mean {hint}" in line


def test_user_errors_have_no_traceback_unless_asked(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "--fail", "all")
    assert (result.returncode, result.stderr) == (2, "error: no such corpus\n")
    assert "Traceback" in bielik(environment, "stage", "--fail", "all", "--debug").stderr


def test_interrupt_is_one_line_and_130(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "--fail", "interrupt")
    assert (result.returncode, result.stderr) == (130, "interrupted\n")


def test_a_module_that_is_missing_gets_one_line(environment: dict[str, str]) -> None:
    result = bielik(environment, "missing")
    assert result.returncode == 2
    assert "nemo_bielik.nowhere" in only_line(result.stderr)


def test_dry_run_prints_the_config_and_does_nothing(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "--dry-run", "value=4", "parallel.processes=2")
    assert result.returncode == 0
    assert "value: 4" in result.stdout
    assert "  processes: 2" in result.stdout
    assert "would count to 4" in result.stdout
    assert "rank" not in result.stdout


def test_a_closed_pipe_is_silent(environment: dict[str, str]) -> None:
    command = f"{sys.executable} -m nemo_bielik --help | true"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True
    )
    assert result.stderr == ""


def test_several_processes_are_ranks_of_one_world(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "parallel.processes=3")
    assert result.returncode == 0
    assert sorted(result.stdout.splitlines()) == [f"rank {rank} of 3: 0" for rank in range(3)]


def test_one_error_on_all_ranks_is_said_once(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "--fail", "all", "parallel.processes=3")
    assert (result.returncode, result.stderr) == (2, "error: no such corpus\n")


def test_an_error_on_one_rank_is_told_from_the_others(environment: dict[str, str]) -> None:
    result = bielik(environment, "stage", "--fail", "1", "parallel.processes=2")
    assert result.returncode == 2
    assert only_line(result.stderr) == "rank 1: error: no such corpus"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ranks_end_with_their_launcher(environment: dict[str, str], number: int) -> None:
    words = ["-m", "nemo_bielik", "stage", "--fail", "sleep", "parallel.processes=2"]
    launcher = subprocess.Popen(
        [sys.executable, *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # a shell that runs the tests in the background has them ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert launcher.stdout is not None
    for _ in range(2):
        assert launcher.stdout.readline() == b"sleeping\n"
    launcher.send_signal(number)
    started = time.monotonic()
    launcher.stdout.read()  # returns when the last rank has closed its end
    assert launcher.wait(30) != 0
    assert time.monotonic() - started < 15


@dataclass(kw_only=True)
class _Config:
    """In-process configuration."""

    value: int = field(default=1, metadata={"help": "a number"})


def _refuse(config: _Config) -> None:
    raise DataError(f"value {config.value}")


def test_main_takes_its_argv(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "COMMANDS", (Command("x", "a:b", "c:d", "help"),))
    monkeypatch.setattr(cli, "load", lambda target: {"a:b": _Config, "c:d": _refuse}[target])
    assert cli.main(["x", "--value", "5"]) == 2
    assert capsys.readouterr().err == "error: value 5\n"
