"""``bielik compare-methods``: any set of methods on one model, at one size, recovered alike.

Every contender goes score → prune → evaluate → distil → evaluate, with the stages that a single
model would use; what is done already is skipped, so a stopped comparison continues.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.compare.contenders import DEFAULT, LORA, Contender, contender
from nemo_bielik.compare.measure import Measured
from nemo_bielik.compare.table import gather, print_table
from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.files import atomic_file, write_json
from nemo_bielik.launch.lanes import Lanes, collect
from nemo_bielik.pipeline import DISTILL, ENGINE, EVALUATE
from nemo_bielik.progress import progress
from nemo_bielik.pruning.methods import METHODS
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.select import check_target
from nemo_bielik.pruning.shearing import ShearingConfig
from nemo_bielik.runs import TEACHER
from nemo_bielik.shape import Shape
from nemo_bielik.training import TrainSettings

MEASURED = "nemo_bielik.compare.measure:run_measured"
SCORE = "nemo_bielik.pruning.score:score"
PRUNE = "nemo_bielik.pruning.prune:prune"


@dataclass(kw_only=True)
class CompareConfig:
    """One model, the methods to cut it by, the size to reach, and the text to bring it back."""

    model: Path = field(metadata={"help": "model directory to cut"})
    calibration: Path = field(metadata={"help": "tokens that the methods may look at"})
    train_data: Path = field(metadata={"help": "tokens to recover on"})
    validation_data: Path = field(metadata={"help": "held-out tokens"})
    texts: list[Path] = field(metadata={"help": "test texts for perplexity"})
    output: Path = field(metadata={"help": "directory of the comparison"})
    minimal_pairs: Path | None = field(default=None, metadata={"help": "as `bielik evaluate`"})
    facts: Path | None = field(default=None, metadata={"help": "as `bielik evaluate`"})
    methods: list[str] = field(
        default_factory=lambda: list(DEFAULT),
        metadata={"help": "contenders: method, method@2:4, method@lora"},
    )
    target: Shape = field(default_factory=Shape)
    score_samples: int = field(default=256, metadata={"help": "calibration sequences"})
    shearing: ShearingConfig = field(default_factory=ShearingConfig)
    recovery: TrainSettings = field(default_factory=TrainSettings)
    lora_rank: int = field(default=8, metadata={"help": "rank of the adapters of …@lora"})
    lora_max_lr: float = field(default=1e-2, metadata={"help": "their peak learning rate"})
    lanes: int = field(default=2, metadata={"help": "stages that run side by side"})

    def __post_init__(self) -> None:
        if not self.texts:
            raise ConfigError("texts is empty; perplexity needs at least one")
        if not self.methods:
            raise ConfigError("methods is empty; give at least one")
        if len(set(self.methods)) < len(self.methods):
            raise ConfigError("methods names a contender twice; give each once")
        if not self.target.given():
            raise ConfigError("target is empty; give sizes to reach, e.g. target.num_layers=40")
        self.recovery.parallel.require_whole_sequences("scoring", "recovery.parallel")
        if self.lanes < self.recovery.parallel.processes:
            raise ConfigError(
                f"lanes is {self.lanes}; recovery.parallel needs {self.recovery.parallel.processes}"
            )


def describe(config: CompareConfig) -> list[str]:
    """Return the lines that ``--dry-run`` adds: what each contender becomes."""
    comparison = Comparison(config)
    comparison.require_texts()
    rows = [f"  {row.name:<18} {_cut_words(row)}" for row in comparison.contenders]
    return [*rows, f"each recovered on {config.recovery.tokens:,} tokens"]


def compare_methods(config: CompareConfig) -> None:
    """Run the comparison; write ``comparison.json`` and ``comparison.html`` and print a table."""
    comparison = Comparison(config)
    comparison.require_texts()
    comparison.cut()
    with Lanes(config.lanes) as lanes:
        lanes.warm(ENGINE)
        comparison.recover(lanes)
        comparison.evaluate(lanes)
    found = gather(comparison)
    write_json(config.output / "comparison.json", found)
    from nemo_bielik.compare.page import render

    page = config.output / "comparison.html"
    with atomic_file(page) as scratch:
        scratch.write_text(render(found), encoding="utf-8")
    print_table(found)
    print(f"page: {page}")


class Comparison:
    """Where everything lies, and the stages to run."""

    def __init__(self, config: CompareConfig) -> None:
        self.config, self.root = config, config.output
        self.source: ModelArch = Checkpoint.open(config.model).arch
        self.target = self.source.replace(name="target", **config.target.given())
        check_target(self.source, self.target)
        self.contenders = [contender(name, self.source, self.target) for name in config.methods]

    def require_texts(self) -> None:
        """Raise `DataError` for tokens, texts or tasks that are not there."""
        config = self.config
        for tokens in (config.calibration, config.train_data, config.validation_data):
            tokens_fingerprint(tokens)
        for path in (*config.texts, config.minimal_pairs, config.facts):
            if path is not None and not path.exists():
                raise DataError(f"{path}: no such file; give texts and tasks that are there")

    def scores(self, row: Contender) -> Path | None:
        """Statistics that a contender needs; those of one kind are collected once."""
        return self.root / "scores" / row.method.statistics if row.method.statistics else None

    def pruned(self, row: Contender) -> Path:
        """The model right after the cut."""
        return self.root / "pruned" / row.cut_label

    def recovered(self, row: Contender) -> Path:
        """The model after recovery."""
        return self.root / "recovered" / row.label

    def evaluation(self, model: Path) -> Path:
        """What a model was judged to be."""
        return self.root / "evaluations" / f"{model.parent.name}-{model.name}"

    def cost(self, stage: str, name: str) -> Path:
        """Seconds and bytes of one stage."""
        return self.root / "costs" / f"{stage}-{name}.json"

    def cut(self) -> None:
        """Score and prune, one stage at a time in a fresh process each, to compare their costs."""
        for stage in progress(self._cuts(), desc="score and prune", unit="stage"):
            with Lanes(self.config.recovery.parallel.processes) as lanes:
                lanes.run(MEASURED, stage)

    def _cuts(self) -> list[Measured]:
        stages: dict[Path, Measured] = {}
        for row in self.contenders:
            scores = self.scores(row)
            if scores is not None:
                record = self.cost("score", scores.name)
                config = self._score(row, scores)
                stages.setdefault(record, Measured(SCORE, config, record, needs=ENGINE))
            record = self.cost("prune", row.cut_label)
            cut = row.prune_config(self.config.model, scores, self.pruned(row))
            stages.setdefault(record, Measured(PRUNE, cut, record))
        return [stage for stage in stages.values() if not stage.is_done()]

    def recover(self, lanes: Lanes) -> None:
        """Distil every contender from the original, on the same tokens in the same order."""
        configs = [self._recovery(row) for row in self.contenders]
        if self.config.recovery.parallel.processes == 1:
            collect([lanes.submit(DISTILL, config) for config in configs])
        else:
            for config in configs:
                lanes.run(DISTILL, config)

    def evaluate(self, lanes: Lanes) -> None:
        """Judge the original and every contender, right after the cut and after recovery."""
        models = [self.config.model]
        models += dict.fromkeys(self.pruned(row) for row in self.contenders)
        models += [self.recovered(row) for row in self.contenders]
        collect([lanes.submit(EVALUATE, self._evaluation(model)) for model in models])

    def _score(self, row: Contender, output: Path) -> ScoreConfig:
        recovery, statistics = self.config.recovery, row.method.statistics
        return ScoreConfig(
            model=self.config.model,
            data=self.config.calibration,
            output=output,
            # methods that share statistics share their directory, so its recipe must be one
            method=next(m.name for m in METHODS.values() if m.statistics == statistics),
            samples=self.config.score_samples,
            sequence_length=recovery.sequence_length,
            micro_batch_size=1 if statistics == "gradients" else recovery.micro_batch_size,
            precision=recovery.precision,
            parallel=recovery.parallel,
            shearing=replace(self.config.shearing, target=self.config.target),
        )

    def _recovery(self, row: Contender) -> DistillConfig:
        settings = replace(self.config.recovery, keep_zeros=not row.method.structured)
        if row.variant == LORA:
            share = settings.optim.min_lr / settings.optim.max_lr
            rate = self.config.lora_max_lr
            optim = replace(settings.optim, max_lr=rate, min_lr=rate * share)
            lora = replace(settings.lora, rank=self.config.lora_rank)
            settings = replace(settings, optim=optim, lora=lora)
        return DistillConfig(
            model=self.pruned(row),
            teacher=self.config.model,
            train_data=[self.config.train_data],
            validation_data=self.config.validation_data,
            output=self.recovered(row),
            **settings.fields(),
        )

    def _evaluation(self, model: Path) -> EvaluateConfig:
        original = model == self.config.model
        return EvaluateConfig(
            model=model,
            output=self.root / "evaluations" / TEACHER if original else self.evaluation(model),
            texts=self.config.texts,
            minimal_pairs=self.config.minimal_pairs,
            facts=self.config.facts,
        )


def _cut_words(row: Contender) -> str:
    return ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.cut.items()
    )
