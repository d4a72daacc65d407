"""The chain: text → teacher → scores → pruned → distilled → evaluated → report.

Every step is a stage with its own artifact, so a run that was stopped continues with what is
missing. On a user's own model and text it starts there; on text alone, or on nothing (the built-in
world), it first trains a tiny teacher.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_bielik.data.split import (
    WITH_GIVEN_TEACHER,
    WITH_TEACHER_TRAINING,
    SplitConfig,
    split_documents,
)
from nemo_bielik.data.tiny_polish.stage import MakeWorldConfig, make_world
from nemo_bielik.data.tiny_polish.world import WorldConfig
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.data.tokenizer import TokenizerConfig, train_tokenizer
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.stage import EvaluateConfig
from nemo_bielik.initialize import InitializeConfig, initialize
from nemo_bielik.launch.lanes import Lanes, collect
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
class PipelineConfig:
    """A run of the whole chain; the defaults are the tiny recipe's."""

    output: Path = field(metadata={"help": "directory of the run"})
    model: Path | None = field(
        default=None,
        metadata={"help": "your model directory; without it a teacher is trained"},
    )
    texts: list[Path] = field(
        default_factory=list, metadata={"help": "your texts; without them the built-in world"}
    )
    vocab_size: int = field(
        default=tiny.VOCAB_SIZE, metadata={"help": "of a trained teacher's tokenizer"}
    )
    world: WorldConfig = field(default_factory=tiny.world)
    teacher_shape: Shape = field(default_factory=tiny.teacher_shape)
    target: Shape = field(default_factory=tiny.target)
    teacher: TrainSettings = field(default_factory=tiny.teacher)
    recovery: TrainSettings = field(default_factory=tiny.recovery)
    temperature: float = field(default=1.0, metadata={"help": "of the distillation loss"})
    score_samples: int = field(default=256, metadata={"help": "calibration sequences"})
    lanes: int = field(default=2, metadata={"help": "stages or ranks that run side by side"})

    def __post_init__(self) -> None:
        if self.model is not None and not self.texts:
            raise ConfigError("model needs texts: give the text to score and distil it on")
        if not self.target.given():
            raise ConfigError("target is empty; give sizes to prune to, e.g. target.num_layers=40")
        if self.lanes < 1:
            raise ConfigError(f"lanes is {self.lanes}; it must be at least 1")


class Chain:
    """The steps of one run; each is skipped when its artifact is there already."""

    def __init__(self, config: PipelineConfig, lanes: Lanes) -> None:
        self.config, self.lanes, self.run = config, lanes, Run(config.output)
        self.stages: list[dict[str, Any]] = []

    def step(self, name: str, action: Callable[[], None]) -> None:
        """Run one step and say how long it took."""
        started = time.monotonic()
        action()
        seconds = round(time.monotonic() - started, 1)
        self.stages.append({"name": name, "wall_seconds": seconds})
        print(f"{name:<42} {seconds:7.1f} s", flush=True)

    def prepare_text(self) -> None:
        """Make the splits of the text: the built-in world, or the user's documents."""
        if not self.config.texts:
            make_world(MakeWorldConfig(output=self.run.world, **vars(self.config.world)))
            return
        trains = self.config.model is None
        shares = WITH_TEACHER_TRAINING if trains else WITH_GIVEN_TEACHER
        split_documents(
            SplitConfig(inputs=self.config.texts, output=self.run.world, shares=dict(shares))
        )

    def text(self, split: str) -> Path:
        """Return the documents of one split."""
        return self.run.world / f"{split}.jsonl"

    def prepare_tokens(self) -> None:
        """Train a tokenizer where the model brings none, and tokenise every split."""
        tokenizer = self.config.model or self.run.tokenizer
        splits = ["validation", "calibration", "recovery", "test"]
        if self.config.model is None:
            splits.append("train")
            train_tokenizer(
                TokenizerConfig(
                    inputs=[self.text("train")],
                    output=self.run.tokenizer,
                    vocab_size=self.config.vocab_size,
                )
            )
        for split in splits:
            tokenize(
                TokenizeConfig(
                    inputs=[self.text(split)], tokenizer=tokenizer, output=self.run.tokens(split)
                )
            )

    @property
    def teacher(self) -> Path:
        """The original: the user's model, or the one this run trains."""
        return self.config.model or self.run.model(TEACHER)

    def train_teacher(self) -> None:
        """Train a teacher from random weights."""
        start = self.run.model(f"{TEACHER}-init")
        initialize(
            InitializeConfig(
                arch="tiny-bielik-11b-v3",
                tokenizer=self.run.tokenizer,
                output=start,
                vocab_size=self.config.vocab_size,
                **vars(self.config.teacher_shape),
            )
        )
        self.lanes.run(
            TRAIN,
            TrainConfig(
                model=start,
                train_data=[self.run.tokens("train")],
                validation_data=self.run.tokens("validation"),
                output=self.teacher,
                **self.config.teacher.fields(),
            ),
        )

    def score(self) -> None:
        """Score every unit of the teacher in one pass."""
        recovery = self.config.recovery
        self.lanes.run(
            SCORE,
            ScoreConfig(
                model=self.teacher,
                data=self.run.tokens("calibration"),
                output=self.run.scores,
                samples=self.config.score_samples,
                sequence_length=recovery.sequence_length,
                micro_batch_size=recovery.micro_batch_size,
                precision=recovery.precision,
                parallel=recovery.parallel,
            ),
        )

    def prune(self) -> None:
        """Cut the teacher to the target."""
        prune(
            PruneConfig(
                model=self.teacher,
                scores=self.run.scores,
                output=self.run.model(PRUNED),
                **vars(self.config.target),
            )
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

    def distill(self, name: str) -> None:
        """Bring the pruned model back."""
        pruned = self.run.model(PRUNED)
        self.lanes.run(DISTILL, self.distillation(pruned, name, self.config.recovery.seed))

    def evaluation(self, name: str, model: Path | None = None) -> EvaluateConfig:
        """Return the settings that judge model `name` on everything the text offers."""
        world = not self.config.texts
        return EvaluateConfig(
            model=model or self.run.model(name),
            output=self.run.evaluation(name),
            texts=[self.text("test")],
            minimal_pairs=self.text("minimal_pairs") if world else None,
            facts=self.text("facts") if world else None,
            sequence_length=self.config.recovery.sequence_length if self.config.texts else 256,
        )

    def evaluate(self, names: list[str]) -> None:
        """Judge models side by side."""
        collect(
            [
                self.lanes.submit(
                    EVALUATE, self.evaluation(name, self.teacher if name == TEACHER else None)
                )
                for name in names
            ]
        )


def run_pipeline(config: PipelineConfig) -> None:
    """Run the chain into `config.output`; the same command continues a run that was stopped."""
    with Lanes(config.lanes) as lanes:
        lanes.warm(ENGINE)
        chain = Chain(config, lanes)
        chain.step("text", chain.prepare_text)
        chain.step("tokens", chain.prepare_tokens)
        if config.model is None:
            chain.step("train teacher", chain.train_teacher)
        chain.step("score", chain.score)
        chain.step("prune", chain.prune)
        chain.step("distil", lambda: chain.distill(DISTILLED))
        chain.step("evaluate", lambda: chain.evaluate([TEACHER, PRUNED, DISTILLED]))
    chain.step("report", lambda: write_report(ReportConfig(run=config.output)))
    print(f"report: {chain.run.report}")
