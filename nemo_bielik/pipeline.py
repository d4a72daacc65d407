"""The chain: text → teacher → scores → pruned → distilled (→ an assistant) → evaluated → report.

Every step is a stage with its own artifact, so a run that was stopped continues with what is
missing. On a user's own model and text it starts there; on text alone, or on nothing (the built-in
world), it first trains a tiny teacher.

Here the steps run in lanes of this machine; with ``--executor`` each is a job (`pipeline_jobs`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from nemo_bielik.align.assistant import AssistantSettings, AssistantStages
from nemo_bielik.commands import find_command
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.initialize import InitializeConfig, initialize
from nemo_bielik.known_layouts import check_known_layouts
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.prepare import PrepareConfig, prepare_text, prepare_tokens
from nemo_bielik.pruning.prune import PruneConfig, prune
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.report.stage import ReportConfig, write_report
from nemo_bielik.runs import DISTILLED, PRUNED, TEACHER, Run
from nemo_bielik.shape import Shape
from nemo_bielik.training import TrainConfig, TrainSettings

TRAIN = "nemo_bielik.training:train"
SCORE = "nemo_bielik.pruning.score:score"
DISTILL = "nemo_bielik.distill.stage:distill"
EVALUATE = "nemo_bielik.evaluate.stage:evaluate"
ENGINE = "nemo_bielik.megatron.engine"


@dataclass(kw_only=True)
class PipelineConfig(PrepareConfig):
    """A run of the whole chain; the defaults are the tiny recipe's."""

    teacher_shape: Shape = field(default_factory=tiny.teacher_shape)
    target: Shape = field(default_factory=tiny.target)
    teacher: TrainSettings = field(default_factory=tiny.teacher)
    recovery: TrainSettings = field(default_factory=tiny.recovery)
    temperature: float = field(default=1.0, metadata={"help": "of the distillation loss"})
    score_samples: int = field(default=256, metadata={"help": "calibration sequences"})
    score_parallel: ParallelConfig | None = field(
        default=None, metadata={"help": "layout of scoring; none: that of recovery"}
    )
    assistant: AssistantSettings = field(default_factory=AssistantSettings)
    lanes: int = field(
        default=2, metadata={"help": "stages or ranks that run side by side on this machine"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.target.given():
            raise ConfigError("target is empty; give sizes to prune to, e.g. target.num_layers=40")
        if self.lanes < 1:
            raise ConfigError(f"lanes is {self.lanes}; it must be at least 1")
        setting = "score_parallel" if self.score_parallel else "recovery.parallel"
        layout = self.score_parallel or self.recovery.parallel
        layout.require_whole_sequences("scoring (score_parallel can give it a layout)", setting)


class StageSettings:
    """What every stage of one run is told; paths are those of `Run`."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.run = config, Run(config.output)

    @property
    def teacher(self) -> Path:
        """The original: the user's model, or the one this run trains."""
        return self.config.model or self.run.model(TEACHER)

    def preparation(self) -> PrepareConfig:
        """Return the settings that make text and tokens."""
        names = [part.name for part in fields(PrepareConfig)]
        return PrepareConfig(**{name: getattr(self.config, name) for name in names})

    def start(self) -> InitializeConfig:
        """Return the settings of the random weights that a teacher is trained from."""
        return InitializeConfig(
            arch="tiny-bielik-11b-v3",
            tokenizer=self.run.tokenizer,
            output=self.run.model(f"{TEACHER}-init"),
            vocab_size=self.config.vocab_size,
            **vars(self.config.teacher_shape),
        )

    def teacher_training(self) -> TrainConfig:
        """Return the settings that train a teacher from random weights."""
        return TrainConfig(
            model=self.start().output,
            train_data=[self.run.tokens("train")],
            validation_data=self.run.tokens("validation"),
            output=self.teacher,
            **self.config.teacher.fields(),
        )

    def scoring(self) -> ScoreConfig:
        """Return the settings that score every unit of the teacher in one pass."""
        recovery = self.config.recovery
        return ScoreConfig(
            model=self.teacher,
            data=self.run.tokens("calibration"),
            output=self.run.scores,
            samples=self.config.score_samples,
            sequence_length=recovery.sequence_length,
            micro_batch_size=recovery.micro_batch_size,
            precision=recovery.precision,
            parallel=self.config.score_parallel or recovery.parallel,
        )

    def pruning(self) -> PruneConfig:
        """Return the settings that cut the teacher to the target."""
        return PruneConfig(
            model=self.teacher,
            scores=self.run.scores,
            output=self.run.model(PRUNED),
            **vars(self.config.target),
        )

    def distillation(self, start: Path, name: str, seed: int) -> DistillConfig:
        """Return the settings that distil the teacher into `start` as model `name`."""
        settings = replace(self.config.recovery, seed=seed)
        return DistillConfig(
            model=start,
            teacher=self.teacher,
            train_data=[self.run.tokens("recovery")],
            validation_data=self.run.tokens("validation"),
            output=self.run.model(name),
            temperature=self.config.temperature,
            **settings.fields(),
        )

    def recovering(self) -> DistillConfig:
        """Return the settings that bring the pruned model back."""
        pruned = self.run.model(PRUNED)
        return self.distillation(pruned, DISTILLED, self.config.recovery.seed)

    def evaluation(self, name: str, model: Path | None = None) -> EvaluateConfig:
        """Return the settings that judge model `name` on everything the text offers."""
        world = not self.config.texts
        return EvaluateConfig(
            model=model or (self.teacher if name == TEACHER else self.run.model(name)),
            output=self.run.evaluation(name),
            texts=[self.run.text("test")],
            minimal_pairs=self.run.text("minimal_pairs") if world else None,
            facts=self.run.text("facts") if world else None,
            sequence_length=self.config.recovery.sequence_length if self.config.texts else 256,
        )

    def assistant(self) -> AssistantStages:
        """Return the stages after distillation."""
        start = self.run.model(DISTILLED)
        return AssistantStages(self.config.assistant, self.run, start, self._with_tokenizer)

    @property
    def _with_tokenizer(self) -> Path:
        return self.config.model or self.run.tokenizer

    def report(self) -> ReportConfig:
        """Return the settings of the page that shows the run."""
        return ReportConfig(run=self.config.output, output=self.run.report)


def timed_step(name: str, action: Callable[[], None]) -> float:
    """Run one step of a chain, print how long it took, and return the seconds."""
    started = time.monotonic()
    action()
    seconds = round(time.monotonic() - started, 1)
    print(f"{name:<42} {seconds:7.1f} s", flush=True)
    return seconds


class Chain(StageSettings):
    """The steps of one run in lanes; each is skipped when its artifact is there already."""

    def __init__(self, config: PipelineConfig, lanes: Lanes) -> None:
        super().__init__(config)
        self.lanes = lanes
        self.stages: list[dict[str, Any]] = []

    def step(self, name: str, action: Callable[[], None]) -> None:
        """Run one step and say how long it took."""
        self.stages.append({"name": name, "wall_seconds": timed_step(name, action)})

    def prepare_text(self) -> None:
        """Make the splits of the text."""
        prepare_text(self.config)

    def prepare_tokens(self) -> None:
        """Tokenise every split."""
        prepare_tokens(self.config)

    def train_teacher(self) -> None:
        """Train a teacher from random weights."""
        initialize(self.start())
        self.lanes.run(TRAIN, self.teacher_training())

    def score(self) -> None:
        """Score every unit of the teacher."""
        self.lanes.run(SCORE, self.scoring())

    def prune(self) -> None:
        """Cut the teacher to the target."""
        prune(self.pruning())

    def distill(self) -> None:
        """Bring the pruned model back."""
        self.lanes.run(DISTILL, self.recovering())

    def align(self) -> None:
        """Make an assistant of it, as far as there are data."""
        for job in self.assistant().jobs("prepare", "distill"):
            function = find_command(job.command, []).function
            self.step(job.label, partial(self.lanes.run, function, job.config))

    def evaluate(self, names: list[str]) -> None:
        """Judge models side by side."""
        collect([self.lanes.submit(EVALUATE, self.evaluation(name)) for name in names])


def run_pipeline(config: PipelineConfig) -> None:
    """Run the chain into `config.output`; the same command continues a run that was stopped.

    Raises `ConfigError` for settings that any of the stages refuses, and `DataError` for an
    assistant's inputs that cannot be, before the first one.
    """
    jobs = pipeline_jobs(config)
    check_known_layouts([job.config for job in jobs])
    widest = max(jobs, key=lambda job: job.ranks)
    if widest.ranks > config.lanes:
        raise ConfigError(
            f"{widest.label} needs {widest.ranks} processes, but lanes is {config.lanes}; raise "
            "lanes, shrink its parallel, or run the chain as jobs by --executor"
        )
    for missing in describe(config):
        raise DataError(missing)
    with Lanes(config.lanes) as lanes:
        lanes.warm(ENGINE)
        chain = Chain(config, lanes)
        chain.step("text", chain.prepare_text)
        chain.step("tokens", chain.prepare_tokens)
        if config.model is None:
            chain.step("train teacher", chain.train_teacher)
        chain.step("score", chain.score)
        chain.step("prune", chain.prune)
        chain.step("distil", chain.distill)
        chain.align()
        aligned = chain.assistant().made()
        chain.step("evaluate", lambda: chain.evaluate([TEACHER, PRUNED, DISTILLED, *aligned]))
    chain.step("report", lambda: write_report(chain.report()))
    print(f"report: {chain.run.report}")


def describe(config: PipelineConfig) -> list[str]:
    """Return what ``--dry-run`` adds: inputs that are not here, though they may be where jobs run.

    Raises `BielikError` for those that are here and cannot be used.
    """
    return StageSettings(config).assistant().check()


def pipeline_jobs(config: PipelineConfig) -> list[Task]:
    """Return the chain as jobs, each with its own layout and what it waits for.

    Evaluations wait for their model alone, so a scheduler may run them beside the distillation.
    """
    stages = StageSettings(config)
    jobs = [Task("prepare", stages.preparation())]
    made = {TEACHER: "prepare", PRUNED: "prune", DISTILLED: "distill"}  # model → the job before
    if config.model is None:
        jobs.append(Task("initialize", stages.start(), after=("prepare",)))
        jobs.append(Task("train", stages.teacher_training(), after=("initialize",)))
        made[TEACHER] = "train"
    jobs.append(Task("score", stages.scoring(), after=(made[TEACHER],)))
    jobs.append(Task("prune", stages.pruning(), after=("score",)))
    jobs.append(Task("distill", stages.recovering(), after=("prune",)))
    assistant = stages.assistant()
    jobs += assistant.jobs("prepare", "distill")
    made |= assistant.made()
    judging = [
        Task("evaluate", stages.evaluation(name), name=f"evaluate-{name}", after=(before,))
        for name, before in made.items()
    ]
    report = Task("report", stages.report(), after=tuple(job.label for job in judging))
    return [*jobs, *judging, report]
