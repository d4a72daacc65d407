"""The chain on the built-in world with what makes its claim fair: controls and seeds.

Beside the distilled student stand, with the same architecture, text and number of tokens: the same
pruned model trained on labels (its learning rate tuned, stopped early on held-out text), and a
model distilled from random weights. Calibration, recovery and test text are disjoint.
"""

import shutil
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nemo_bielik.data.tiny_polish.stage import BaselineConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import write_json
from nemo_bielik.initialize import InitializeConfig, initialize
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.manifest import Manifest
from nemo_bielik.peak_memory import PeakMemory
from nemo_bielik.pipeline import DISTILL, ENGINE, TRAIN, Chain, PipelineConfig
from nemo_bielik.recipes import tiny
from nemo_bielik.report.stage import ReportConfig, write_report
from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED, TEACHER
from nemo_bielik.summary import summarize
from nemo_bielik.training import TrainConfig, TrainSettings

BASELINES = {"baseline-unigram": 1, "baseline-bigram": 2}


@dataclass(kw_only=True)
class DemoConfig(PipelineConfig):
    """The demo's run; it always uses the built-in world."""

    output: Path = field(default=Path("runs/demo"), metadata={"help": "directory of the run"})
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3], metadata={"help": "orders of the recovery text"}
    )
    label_rates: list[float] = field(
        default_factory=tiny.label_rates,
        metadata={"help": "learning rates tried for the label-trained control"},
    )
    from_scratch: TrainSettings = field(default_factory=tiny.from_scratch)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is not None or self.texts:
            raise ConfigError(
                "the demo runs on the built-in world; use `bielik pipeline` for your own model "
                "and texts"
            )
        if self.assistant.conversations:
            raise ConfigError("the demo ends at distilled models; run `bielik align` after it")
        if not self.seeds or not self.label_rates:
            raise ConfigError("seeds and label_rates need at least one value each")
        if self.from_scratch.tokens != self.recovery.tokens:
            raise ConfigError(
                f"from_scratch trains on {self.from_scratch.tokens} tokens and recovery on "
                f"{self.recovery.tokens}; the comparison needs them equal"
            )


def run_demo(config: DemoConfig) -> None:
    """Run the chain and its controls, write ``summary.json`` and the report."""
    started = time.monotonic()
    resumed = config.output.exists()
    with PeakMemory() as memory, Lanes(config.lanes) as lanes:
        lanes.warm(ENGINE)
        demo = Demo(config, lanes)
        demo.step("text: a small world of Polish", demo.prepare_text)
        demo.step("tokenizer and tokens", demo.prepare_tokens)
        demo.step("teacher from scratch", demo.train_teacher)
        demo.step("score every head, channel and layer", demo.score)
        demo.step("prune", demo.prune)
        demo.step("three ways back, several seeds", demo.recover)
        demo.step("evaluate", demo.judge)
    summary = summarize(config, demo.stages)
    summary |= {
        "wall_seconds": round(time.monotonic() - started, 1),
        "resumed": resumed,
        "peak_rss_bytes": memory.peak_bytes,
    }
    write_json(demo.run.summary, summary)
    write_report(ReportConfig(run=config.output))
    _print_story(summary)
    print(f"report: {demo.run.report}")


class Demo(Chain):
    """The chain's steps and the controls'."""

    config: DemoConfig

    def recover(self) -> None:
        """Distil, train on labels, distil from random weights: all with every seed."""
        futures = [self._try_labels(rate) for rate in self.config.label_rates]
        others = [self._distill(seed) for seed in self.config.seeds]
        others += [self._from_scratch(seed) for seed in self.config.seeds]
        collect(futures)
        best = min(self.config.label_rates, key=self._label_loss)
        self._keep_trial(best)
        others += [
            self.lanes.submit(TRAIN, self._labels(f"{LABEL_TRAINED}-seed{seed}", best, seed))
            for seed in self.config.seeds[1:]
        ]
        collect(others)

    def judge(self) -> None:
        """Evaluate every model and the trivial baselines."""
        futures = [self._baseline(name, order) for name, order in BASELINES.items()]
        self.evaluate([TEACHER, PRUNED, *self.students()])
        collect(futures)

    def students(self) -> list[str]:
        """Return the names of all recovered models."""
        ways = (DISTILLED, LABEL_TRAINED, FROM_SCRATCH)
        return [f"{way}-seed{seed}" for way in ways for seed in self.config.seeds]

    def _distill(self, seed: int) -> "Future[None]":
        config = self.distillation(self.run.model(PRUNED), f"{DISTILLED}-seed{seed}", seed)
        return self.lanes.submit(DISTILL, config)

    def _from_scratch(self, seed: int) -> "Future[None]":
        name = f"{FROM_SCRATCH}-seed{seed}"
        start = self.run.model(f"{name}-init")
        initialize(InitializeConfig(like=self.run.model(PRUNED), output=start, seed=seed))
        config = self.distillation(start, name, seed)
        settings = replace(self.config.from_scratch, seed=seed)
        return self.lanes.submit(DISTILL, replace(config, **settings.fields()))

    def _labels(self, name: str, rate: float, seed: int) -> TrainConfig:
        recovery = self.config.recovery
        share = recovery.optim.min_lr / recovery.optim.max_lr
        optim = replace(recovery.optim, max_lr=rate, min_lr=rate * share)
        settings = replace(recovery, seed=seed, optim=optim, keep="best")
        return TrainConfig(
            model=self.run.model(PRUNED),
            train_data=[self.run.tokens("recovery")],
            validation_data=self.run.tokens("validation"),
            output=self.run.model(name),
            **settings.fields(),
        )

    def _try_labels(self, rate: float) -> "Future[None]":
        return self.lanes.submit(TRAIN, self._labels(_trial(rate), rate, self.config.seeds[0]))

    def _label_loss(self, rate: float) -> float:
        manifest = Manifest.load(self.run.model(_trial(rate)))
        return float(manifest.results["best_validation_loss"])

    def _keep_trial(self, rate: float) -> None:
        """The best trial is the first seed's run."""
        chosen = self.run.model(f"{LABEL_TRAINED}-seed{self.config.seeds[0]}")
        if not chosen.exists():
            shutil.copytree(self.run.model(_trial(rate)), chosen)

    def _baseline(self, name: str, order: int) -> "Future[None]":
        return self.lanes.submit(
            "nemo_bielik.data.tiny_polish.stage:score_baseline",
            BaselineConfig(
                world=self.run.world,
                train_data=self.run.tokens("train"),
                test_data=self.run.tokens("test"),
                output=self.run.evaluation(name),
                order=order,
            ),
        )


def _trial(rate: float) -> str:
    return f"{LABEL_TRAINED}-rate{rate:g}"


def _print_story(summary: dict[str, Any]) -> None:
    print(f"\n{'':<16}{'perplexity':>11}{'pairs':>8}{'facts':>8}{'recovery':>10}")
    for name in ("baseline", TEACHER, PRUNED, DISTILLED, LABEL_TRAINED, FROM_SCRATCH):
        row = summary[name]
        recovered = summary["recovery_percent_by_model"].get(name)
        print(
            f"{name:<16}{row['perplexity']:>11.2f}{row['minimal_pairs_accuracy']:>8.1%}"
            f"{row['fact_accuracy']:>8.1%}"
            + (f"{recovered:>9.1f}%" if recovered is not None else "")
        )
    print(f"parameters −{summary['params_reduction_percent']:.1f} %")
