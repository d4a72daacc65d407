"""The `bielik` command: one table of stages, each a configuration class and a function.

Only the chosen command's modules are imported, so ``bielik --help`` costs nothing. What a
command's options are follows from its configuration class (`nemo_bielik.options`).
"""

import importlib
import os
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_bielik import __version__
from nemo_bielik.config_text import format_config
from nemo_bielik.errors import BielikError, ConfigError, nearest
from nemo_bielik.launch.local import die_with_parent, run_distributed
from nemo_bielik.options import parse_config

STATUS_OK = 0
STATUS_USER_ERROR = 2
STATUS_INTERRUPTED = 130
_OTHER_RANKS_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class Command:
    """One row of the table; the three names are ``module:object``, resolved when it is chosen.

    `describe` names a function from the configuration to the lines that ``--dry-run`` adds.
    """

    name: str
    config: str
    function: str
    help: str
    describe: str | None = None


COMMANDS: tuple[Command, ...] = (
    Command(
        "demo",
        "nemo_bielik.demo:DemoConfig",
        "nemo_bielik.demo:run_demo",
        "the whole chain on this machine, with controls and a report",
    ),
    Command(
        "pipeline",
        "nemo_bielik.pipeline:PipelineConfig",
        "nemo_bielik.pipeline:run_pipeline",
        "score, prune, distil, evaluate and report, skipping what is done",
    ),
    Command(
        "plan",
        "nemo_bielik.planner.table:PlanConfig",
        "nemo_bielik.planner.table:print_plan",
        "parameters, bytes and FLOPs of a model and its candidates",
    ),
    Command(
        "world",
        "nemo_bielik.data.tiny_polish.stage:MakeWorldConfig",
        "nemo_bielik.data.tiny_polish.stage:make_world",
        "write the built-in Polish corpus and its evaluation sets",
    ),
    Command(
        "tokenizer",
        "nemo_bielik.data.tokenizer:TokenizerConfig",
        "nemo_bielik.data.tokenizer:train_tokenizer",
        "train a byte-level BPE tokenizer on text",
    ),
    Command(
        "tokenize",
        "nemo_bielik.data.tokenize:TokenizeConfig",
        "nemo_bielik.data.tokenize:tokenize",
        "text to Megatron's .bin/.idx",
    ),
    Command(
        "initialize",
        "nemo_bielik.initialize:InitializeConfig",
        "nemo_bielik.initialize:initialize",
        "a model directory with random weights",
    ),
    Command(
        "train",
        "nemo_bielik.training:TrainConfig",
        "nemo_bielik.training:train",
        "train a model on next-token loss",
    ),
    Command(
        "score",
        "nemo_bielik.pruning.score:ScoreConfig",
        "nemo_bielik.pruning.score:score",
        "what a pruning method must know of a model, from calibration text",
    ),
    Command(
        "score --merge",
        "nemo_bielik.pruning.merge:MergeConfig",
        "nemo_bielik.pruning.merge:merge",
        "one score table from several, by weights",
    ),
    Command(
        "depth",
        "nemo_bielik.pruning.depth.stage:DepthConfig",
        "nemo_bielik.pruning.depth.stage:rank_layers",
        "which layers can go: five ways, and how far they agree",
        "nemo_bielik.pruning.depth.stage:describe",
    ),
    Command(
        "methods",
        "nemo_bielik.pruning.methods:MethodsConfig",
        "nemo_bielik.pruning.methods:print_methods",
        "the pruning methods and what each needs",
    ),
    Command(
        "prune",
        "nemo_bielik.pruning.prune:PruneConfig",
        "nemo_bielik.pruning.prune:prune",
        "cut a checkpoint to a smaller architecture, or thin out its weights",
        "nemo_bielik.pruning.prune:describe",
    ),
    Command(
        "verify",
        "nemo_bielik.pruning.verify:VerifyConfig",
        "nemo_bielik.pruning.verify:verify",
        "whether a pruned model is exactly what its plan and source give",
    ),
    Command(
        "compare-methods",
        "nemo_bielik.compare.stage:CompareConfig",
        "nemo_bielik.compare.stage:compare_methods",
        "pruning methods side by side at one size and equal recovery",
        "nemo_bielik.compare.stage:describe",
    ),
    Command(
        "distill",
        "nemo_bielik.distill.stage:DistillConfig",
        "nemo_bielik.distill.stage:distill",
        "train a student on its teacher's distribution",
    ),
    Command(
        "evaluate",
        "nemo_bielik.evaluate.stage:EvaluateConfig",
        "nemo_bielik.evaluate.stage:evaluate",
        "perplexity, minimal pairs and facts of a model",
    ),
    Command(
        "report",
        "nemo_bielik.report.stage:ReportConfig",
        "nemo_bielik.report.stage:write_report",
        "one self-contained HTML page from the artifacts of a run",
    ),
    Command(
        "doctor",
        "nemo_bielik.doctor:DoctorConfig",
        "nemo_bielik.doctor:run_doctor",
        "what this machine has and lacks",
    ),
)
_COMMON_FLAGS = """\
Every command also takes:
  --dry-run   print the resolved settings and what would happen, and do nothing
  --debug     show the traceback of an error
  --help      list the command's settings"""


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
    status = run_command(find_command(words[0], words[1:]), words[1:])
    sys.stdout.flush()  # a closed pipe shows here, where it is handled
    return status


def usage() -> str:
    """Return the text of ``bielik --help``."""
    width = max(len(command.name) for command in COMMANDS)
    rows = "\n".join(f"  {command.name:<{width}}  {command.help}" for command in COMMANDS)
    return (
        "usage: bielik COMMAND [--option value …] [name=value …]\n\n"
        f"Score, prune, distil and judge a language model.\n\ncommands:\n{rows}\n\n{_COMMON_FLAGS}"
    )


def find_command(name: str, words: Sequence[str] = ()) -> Command:
    """Return the command called `name`; an unknown one raises `ConfigError`.

    A row such as ``score --merge`` is another form of its command, chosen by that option.
    """
    known = {command.name: command for command in COMMANDS}
    for command in COMMANDS:
        if command.name.split()[:1] == [name] and set(command.name.split()[1:]) & set(words):
            return command
    if name not in known:
        kind = "option" if name.startswith("-") else "command"
        hint = nearest(name, ["--help", "--version"] if kind == "option" else known)
        raise ConfigError(f"unknown {kind} {name!r}{hint}; 'bielik --help' lists the commands")
    return known[name]


def run_command(command: Command, argv: Sequence[str]) -> int:
    """Build the configuration of `command` from `argv` and run it, on several ranks if asked."""
    words = list(argv)
    dry_run = _take_flag(words, "--dry-run")
    config = parse_config(load(command.config), words, f"bielik {command.name}")
    if dry_run:
        print(f"# bielik {command.name}: dry run, nothing is done\n{format_config(config)}")
        if command.describe:
            print("", *load(command.describe)(config), sep="\n")
        return STATUS_OK
    processes = _processes(config)
    if processes > 1 and "WORLD_SIZE" not in os.environ:
        return run_distributed([command.name, *words], processes)
    result = load(command.function)(config)
    return result if isinstance(result, int) and not isinstance(result, bool) else STATUS_OK


def load(target: str) -> Any:
    """Import ``module:object``; a package missing from this environment raises `ConfigError`."""
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing.split(".")[0] == "nemo_bielik":
            raise ConfigError(f"{module_name} is not part of this version ({missing})") from error
        raise ConfigError(
            f"{module_name} needs the package {missing!r}, which is not installed; "
            "run 'make env' or install nemo-bielik[engine]"
        ) from error


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
