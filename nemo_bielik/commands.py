"""The one table of commands: each a configuration class and a function, resolved when chosen."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nemo_bielik.errors import ConfigError, nearest


@dataclass(frozen=True)
class Command:
    """One row of the table; the three names are ``module:object``, resolved when it is chosen.

    `describe` names a function from the configuration to the lines that ``--dry-run`` adds; `jobs`
    one to the tasks that ``--executor`` submits, where they are more than the command itself.
    """

    name: str
    config: str
    function: str
    help: str
    describe: str | None = None
    jobs: str | None = None

    @property
    def subcommands(self) -> int:
        """Words after the first that only name the command: 1 for ``launch check``."""
        return sum(not word.startswith("-") for word in self.name.split()[1:])

    @property
    def can_be_launched(self) -> bool:
        """Whether it takes ``--executor`` and what goes with it; what looks after jobs does not."""
        return not self.name.startswith("launch ") or self.stage != self.name

    @property
    def stage(self) -> str:
        """The stage whose settings it takes: ``distill`` for ``launch preflight distill``."""
        return self.name.removeprefix("launch preflight ")


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
        "nemo_bielik.pipeline:describe",
        jobs="nemo_bielik.pipeline:pipeline_jobs",
    ),
    Command(
        "prepare",
        "nemo_bielik.prepare:PrepareConfig",
        "nemo_bielik.prepare:prepare",
        "split text into a run's parts and tokenise them",
    ),
    Command(
        "plan",
        "nemo_bielik.planner.table:PlanConfig",
        "nemo_bielik.planner.table:print_plan",
        "parameters, bytes and FLOPs of a model and its candidates",
    ),
    Command(
        "plan --cluster",
        "nemo_bielik.planner.layout_plan:LayoutPlanConfig",
        "nemo_bielik.planner.layout_plan:print_layouts",
        "memory, speed and cost of every layout of a training on a cluster",
    ),
    Command(
        "plan --cards",
        "nemo_bielik.planner.cards:CardsConfig",
        "nemo_bielik.planner.cards:print_cards",
        "which cards of 16 to 24 GB a model fits, and at what context",
    ),
    Command(
        "world",
        "nemo_bielik.data.tiny_polish.stage:MakeWorldConfig",
        "nemo_bielik.data.tiny_polish.stage:make_world",
        "write the built-in Polish corpus and its evaluation sets",
    ),
    Command(
        "world --assistant",
        "nemo_bielik.data.tiny_polish.assistant:AssistantDataConfig",
        "nemo_bielik.data.tiny_polish.assistant:make_assistant_data",
        "instructions, preference pairs and verifiable tasks of the built-in world",
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
        "one score directory from several, by weights",
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
        "search",
        "nemo_bielik.search.config:SearchConfig",
        "nemo_bielik.search.stage:search",
        "the smaller shape that distils best: short trials of all, longer ones of the best",
        "nemo_bielik.search.stage:describe",
    ),
    Command(
        "search --plan",
        "nemo_bielik.search.plan:SearchPlanConfig",
        "nemo_bielik.search.plan:print_plan",
        "what a search would cost, candidate by candidate",
    ),
    Command(
        "cache-teacher",
        "nemo_bielik.distill.cache_stage:CacheTeacherConfig",
        "nemo_bielik.distill.cache_stage:cache_teacher",
        "run a teacher once and keep its likeliest tokens, to distil without it",
        "nemo_bielik.distill.cache_stage:describe",
    ),
    Command(
        "distill",
        "nemo_bielik.distill.stage:DistillConfig",
        "nemo_bielik.distill.stage:distill",
        "train a student on its teacher's distribution",
    ),
    Command(
        "sft",
        "nemo_bielik.align.sft:SftConfig",
        "nemo_bielik.align.sft:sft",
        "fine-tune a model on conversations",
        "nemo_bielik.align.sft:describe",
    ),
    Command(
        "reference",
        "nemo_bielik.align.reference:ReferenceConfig",
        "nemo_bielik.align.reference:reference",
        "a model's log-probabilities of preference pairs, for dpo",
    ),
    Command(
        "dpo",
        "nemo_bielik.align.dpo:DpoConfig",
        "nemo_bielik.align.dpo:dpo",
        "train a model to prefer the better of two answers (DPO-Positive)",
        "nemo_bielik.align.dpo:describe",
    ),
    Command(
        "grpo",
        "nemo_bielik.align.grpo:GrpoConfig",
        "nemo_bielik.align.grpo:grpo",
        "reinforcement learning on tasks whose answers can be verified",
        "nemo_bielik.align.grpo:describe_run",
    ),
    Command(
        "reward",
        "nemo_bielik.align.measure:RewardConfig",
        "nemo_bielik.align.measure:measure_reward",
        "a model's answers to verifiable tasks, and what they earn",
    ),
    Command(
        "align",
        "nemo_bielik.align.chain:AlignDemoConfig",
        "nemo_bielik.align.chain:align",
        "after the demo: fine-tuning, preferences and rewards, judged after each",
        "nemo_bielik.align.chain:describe",
    ),
    Command(
        "quantize",
        "nemo_bielik.quantize.config:QuantizeConfig",
        "nemo_bielik.quantize.stage:quantize",
        "GGUF, FP8, NVFP4, INT4 and INT8, and a table of what each costs",
        "nemo_bielik.quantize.stage:describe",
    ),
    Command(
        "export-checkpoint",
        "nemo_bielik.export:ExportConfig",
        "nemo_bielik.export:export_checkpoint",
        "a model directory from a checkpoint of a run that goes on",
    ),
    Command(
        "evaluate",
        "nemo_bielik.evaluate.config:EvaluateConfig",
        "nemo_bielik.evaluate.stage:evaluate",
        "perplexity, minimal pairs, facts and benchmark suites of a model",
    ),
    Command(
        "suites",
        "nemo_bielik.evaluate.suites.listing:SuitesConfig",
        "nemo_bielik.evaluate.suites.listing:print_suites",
        "the benchmark suites, what each asks and the data it needs",
    ),
    Command(
        "bench",
        "nemo_bielik.bench.config:BenchConfig",
        "nemo_bielik.bench.stage:bench",
        "how fast served models answer: latencies, throughput, ratios",
    ),
    Command(
        "bench --paper",
        "nemo_bielik.paper.speed:PaperSpeedConfig",
        "nemo_bielik.paper.speed:print_paper_speed",
        "the report's speed, and what a roofline predicts from its teacher alone",
    ),
    Command(
        "recovery",
        "nemo_bielik.recovery.stage:RecoveryConfig",
        "nemo_bielik.recovery.stage:recover",
        "how much of its teacher each student keeps, with intervals; a page and a model card",
    ),
    Command(
        "compare",
        "nemo_bielik.recovery.side_by_side:CompareRunsConfig",
        "nemo_bielik.recovery.side_by_side:compare_runs",
        "two evaluations or two recoveries side by side, with paired intervals",
    ),
    Command(
        "report",
        "nemo_bielik.report.stage:ReportConfig",
        "nemo_bielik.report.stage:write_report",
        "one self-contained HTML page from the artifacts of a run",
    ),
    Command(
        "recipes",
        "nemo_bielik.recipes.catalog:RecipesConfig",
        "nemo_bielik.recipes.catalog:print_recipes",
        "settings to start from, with their stage and layout",
    ),
    Command(
        "report --paper",
        "nemo_bielik.paper.recovery:PaperConfig",
        "nemo_bielik.paper.recovery:print_paper",
        "the report's recovery table, rebuilt from its tables of scores",
    ),
    Command(
        "launch init",
        "nemo_bielik.launch.check:InitConfig",
        "nemo_bielik.launch.check:write_template",
        "write a site file: where stages can run",
    ),
    Command(
        "launch check",
        "nemo_bielik.launch.check:CheckConfig",
        "nemo_bielik.launch.check:check_sites",
        "what the site file says, and what is missing",
    ),
    Command(
        "launch status",
        "nemo_bielik.launch.jobs:StatusConfig",
        "nemo_bielik.launch.jobs:print_status",
        "jobs that were launched, and how they are",
    ),
    Command(
        "launch logs",
        "nemo_bielik.launch.jobs:LogsConfig",
        "nemo_bielik.launch.jobs:print_logs",
        "what a job has printed",
    ),
    Command(
        "launch cancel",
        "nemo_bielik.launch.jobs:CancelConfig",
        "nemo_bielik.launch.jobs:cancel",
        "stop a job",
    ),
    Command(
        "launch preflight train",
        "nemo_bielik.preflight:PreflightTrainConfig",
        "nemo_bielik.preflight:preflight_train",
        "whether an allocation is fit for a training, and what that will cost",
    ),
    Command(
        "launch preflight distill",
        "nemo_bielik.preflight:PreflightDistillConfig",
        "nemo_bielik.preflight:preflight_distill",
        "whether an allocation is fit for a distillation, and what that will cost",
    ),
    Command(
        "doctor",
        "nemo_bielik.doctor:DoctorConfig",
        "nemo_bielik.doctor:run_doctor",
        "what this machine has and lacks",
    ),
)


def commands_of(group: str) -> list[Command]:
    """Return the commands of a group such as ``launch``; none of what is a command itself."""
    known = [command for command in COMMANDS if command.name.split()[0] == group]
    return [] if any(command.name == group for command in known) else known


def find_command(name: str, words: Sequence[str] = ()) -> Command:
    """Return the command called `name`; an unknown one raises `ConfigError`.

    A row such as ``score --merge`` is another form of its command, chosen by that option.
    """
    known = {command.name: command for command in COMMANDS}
    for command in COMMANDS:
        first, *rest = command.name.split()
        if first == name and rest and _are_chosen(rest, words):
            return command
    if name not in known:
        actions = [command.name.partition(" ")[2] for command in commands_of(name)]
        if actions:
            several = bool(words) and any(action.startswith(f"{words[0]} ") for action in actions)
            given = " ".join(words[: 2 if several else 1])
            hint = nearest(given, actions)
            raise ConfigError(f"{name}: {given!r} is not one of {', '.join(actions)}{hint}")
        kind = "option" if name.startswith("-") else "command"
        hint = nearest(name, ["--help", "--version"] if kind == "option" else known)
        raise ConfigError(f"unknown {kind} {name!r}{hint}; 'bielik --help' lists the commands")
    return known[name]


def _are_chosen(names: list[str], words: Sequence[str]) -> bool:
    if names[0].startswith("-"):
        return names[0] in {word.partition("=")[0] for word in words}
    return list(words[: len(names)]) == names


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
