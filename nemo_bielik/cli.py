"""The `bielik` command: the stages of `nemo_bielik.commands` behind one name.

Only the chosen command's modules are imported, so ``bielik --help`` costs nothing. What a
command's options are follows from its configuration class (`nemo_bielik.options`).
"""

import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

from nemo_bielik import __version__
from nemo_bielik.commands import COMMANDS, Command, commands_of, find_command, load
from nemo_bielik.config_text import format_config
from nemo_bielik.errors import BielikError
from nemo_bielik.launch.local import JOB_VARIABLE, die_with_parent, run_distributed
from nemo_bielik.launch.words import LaunchWords, take_launch_words
from nemo_bielik.options import parse_config

STATUS_OK = 0
STATUS_USER_ERROR = 2
STATUS_INTERRUPTED = 130
STATUS_STOPPED = 128 + signal.SIGTERM
_OTHER_RANKS_WAIT_SECONDS = 2.0
_KNOWN_LAYOUTS = "nemo_bielik.known_layouts:check_known_layouts"


_COMMON_FLAGS = """\
Every command also takes:
  --dry-run         print the resolved settings and what would happen, and do nothing
  --factory NAME    start from a recipe; options and name=value change it
  --executor SITE   run on a site of the site file ('bielik launch init' writes one);
                    --site FILE, --job-name NAME and executor.time=… go with it
  --debug           show the traceback of an error
  --help            list the command's settings"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `bielik` command and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = _take_flag(words, "--debug")
    die_with_parent()
    # Said by torch to everybody who installed NVIDIA's stack; nothing a user could mend.
    warnings.filterwarnings("ignore", message="The pynvml package is deprecated")
    try:
        return _dispatch(words)
    except BielikError as error:
        if debug:
            raise
        _say(f"error: {error}")
        return STATUS_USER_ERROR
    except KeyboardInterrupt:
        _say("interrupted")
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: point stdout elsewhere so that exit stays silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_OK


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return STATUS_OK
    if words[0] == "--version":
        print(f"bielik {__version__}")
        return STATUS_OK
    if words[1:] in (["-h"], ["--help"]) and (group := commands_of(words[0])):
        print(usage(group))
        return STATUS_OK
    command = find_command(words[0], words[1:])
    status = run_command(command, words[1 + command.subcommands :])
    sys.stdout.flush()  # a closed pipe shows here, where it is handled
    return status


def usage(commands: Sequence[Command] = COMMANDS) -> str:
    """Return the text of ``bielik --help``, or of the help on some of the commands."""
    width = max(len(command.name) for command in commands)
    rows = "\n".join(f"  {command.name:<{width}}  {command.help}" for command in commands)
    return (
        "usage: bielik COMMAND [--option value …] [name=value …]\n\n"
        f"Score, prune, distil and judge a language model.\n\ncommands:\n{rows}\n\n{_COMMON_FLAGS}"
    )


def run_command(command: Command, argv: Sequence[str]) -> int:
    """Build the configuration of `command` from `argv` and run it: here, or where it says."""
    words = list(argv)
    dry_run = _take_flag(words, "--dry-run")
    launch = LaunchWords()
    if command.can_be_launched:
        launch = take_launch_words(words, f"bielik {command.name}")
    recipe = _recipe(command, launch.factory) if launch.factory else None
    config = parse_config(load(command.config), words, f"bielik {command.name}", recipe)
    if dry_run:
        stages = [job.config for job in load(command.jobs)(config)] if command.jobs else [config]
        unknown = load(_KNOWN_LAYOUTS)(stages)
        print(f"# bielik {command.name}: dry run, nothing is done\n{format_config(config)}")
        lines = _description(command, config, launch) if command.describe else []
        if lines:
            print("", *lines, sep="\n")
        for line in unknown:
            print(f"# {line}")
    if launch.executor:
        from nemo_bielik.launch.submit import submit_words

        return submit_words(command, config, launch, dry_run)
    return STATUS_OK if dry_run else run_stage(command, config, argv)


def _description(command: Command, config: Any, launch: LaunchWords) -> list[str]:
    """Return what would happen; of a job, whose files need not be on this machine, if they are.

    Raises `BielikError` for files or settings of a stage that would run here.
    """
    assert command.describe
    try:
        return list(load(command.describe)(config))
    except BielikError as error:
        if not launch.executor:
            raise
        return [f"# what it would do is not known here: {error}"]


def run_stage(command: Command, config: Any, argv: Sequence[str]) -> int:
    """Run the function of `command` on `config`; on several ranks, start ``bielik *argv`` on each.

    A stage that SIGTERM stopped has saved its work, which is success for whoever sent the signal.
    In a scheduler's job it is not done: the job must be queued again, what waits for it must wait.
    """
    processes = _processes(config)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        return run_distributed([*command.name.split(), *argv], processes)
    try:
        result = load(command.function)(config)
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise
        _say("stopped by a signal; the same command continues")
        return STATUS_STOPPED if JOB_VARIABLE in os.environ else STATUS_OK
    return result if isinstance(result, int) and not isinstance(result, bool) else STATUS_OK


def _recipe(command: Command, name: str) -> Any:
    from nemo_bielik.recipes.catalog import find_recipe

    return find_recipe(command.stage, name)()


def _processes(config: Any) -> int:
    return int(getattr(getattr(config, "parallel", None), "processes", 1))


def _say(message: str) -> None:
    """Print `message` once, although every rank of a distributed run may have reached it.

    Rank 0 speaks at once and the launcher then stops the others; they wait for that, and speak
    only if the trouble was theirs alone.
    """
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        time.sleep(_OTHER_RANKS_WAIT_SECONDS)
        message = f"rank {rank}: {message}"
    print(message, file=sys.stderr, flush=True)


def _take_flag(words: list[str], flag: str) -> bool:
    """Remove `flag` from `words` and return whether it was there."""
    found = flag in words
    words[:] = [word for word in words if word != flag]
    return found
