"""What a search and the plan of one have in common: candidates, limits, rungs and their run."""

from dataclasses import dataclass, field, replace
from typing import Literal

from nemo_bielik.arch import ModelArch
from nemo_bielik.checks import check_choices
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import check_sizes
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.pruning.methods import check_cuts, find_method
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.search import halving
from nemo_bielik.search.candidates import Candidate, Generation, generate, paper, resolve
from nemo_bielik.search.limits import Breach, Limits, breaches, misfit
from nemo_bielik.search.verdicts import StabilityLimits
from nemo_bielik.training import TrainSettings


@dataclass(kw_only=True)
class SearchSettings:
    """Which shapes are tried, how far, and on what kind of run.

    Without names or a preset, shapes are generated within the limits.
    """

    preset: Literal["none", "paper"] = field(
        default="none", metadata={"help": "paper: the report's ten, or their proportions"}
    )
    candidates: list[str] = field(
        default_factory=list,
        metadata={"help": "shapes: exp-010, source:num_layers=40; @max_lr=3e-4 behind one"},
    )
    generate: Generation = field(default_factory=Generation)
    limits: Limits = field(default_factory=Limits)
    method: str = field(default="minitron", metadata={"help": "pruning method of all cuts"})
    teacher: Literal["cached", "live"] = field(
        default="cached", metadata={"help": "run the original once and keep it on disk, or always"}
    )
    cache_k: int = field(default=64, metadata={"help": "tokens kept of its distributions"})
    after_cut: int = field(
        default=0, metadata={"help": "candidates, best right after the cut, that train; 0: all"}
    )
    seeds: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "orders of the text; each is a trial"}
    )
    factor: int = field(
        default=3, metadata={"help": "one in so many goes on, to so many times the steps"}
    )
    finalists: int = field(default=2, metadata={"help": "candidates that train to the end"})
    recovery: TrainSettings = field(default_factory=minitron_7b.recovery)
    judge: StabilityLimits = field(default_factory=StabilityLimits)

    def __post_init__(self) -> None:
        check_choices(self)
        if self.preset != "none" and self.candidates:
            raise ConfigError("of preset and candidates, both are given; give one")
        method = find_method(self.method)
        if not method.structured or method.statistics == "masks":
            raise ConfigError(
                f"method is {self.method}; a search cuts many shapes by one scoring, which "
                "minitron, shortgpt and llm-pruner can"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds is {self.seeds}; give different ones, at least one")
        if self.after_cut < 0:
            raise ConfigError(f"after_cut is {self.after_cut}; it must be 0 (all) or more")
        if self.factor < 2:
            raise ConfigError(f"factor is {self.factor}; it must be at least 2")
        if self.finalists < 1:
            raise ConfigError(f"finalists is {self.finalists}; it must be at least 1")
        run = self.recovery
        if run.phases:
            raise ConfigError("recovery.phases is set; a search compares runs of one shape")
        if not run.eval_interval or run.iters % run.eval_interval:
            raise ConfigError(
                f"recovery.eval_interval is {run.eval_interval}; rungs end at validations, so it "
                f"must be above 0 and divide recovery.iters ({run.iters})"
            )

    @property
    def fills_cluster(self) -> bool:
        """Whether a trial takes all of `limits.cluster`, whose hours and memory then count."""
        return self.recovery.parallel.processes == Cluster.parse(self.limits.cluster).gpus

    def choose(self, source: ModelArch) -> list[Candidate]:
        """Return the candidates.

        Raises `ConfigError` for what cannot be cut out of `source`, what `method` cannot cut and
        what `recovery.parallel` cannot split.
        """
        run, found = self.recovery, self._choose(source)
        for arch in (source, *(candidate.arch for candidate in found)):
            check_cuts(find_method(self.method), source, arch)
            check_sizes(run.parallel, run.sequence_length, arch, "recovery.parallel")
        return found

    def _choose(self, source: ModelArch) -> list[Candidate]:
        if self.candidates:
            return resolve(self.candidates, source)
        if self.preset == "paper":
            return paper(source)
        if not self.limits.given:
            raise ConfigError(
                "no candidates are named and nothing limits them; give candidates, preset=paper, "
                "or limits to generate within, such as limits.max_parameters"
            )
        cuts = find_method(self.method).cuts
        wanted = replace(self.generate, vary=[n for n in self.generate.vary if n in cuts])
        return generate(source, self.limits, wanted, self.recovery, self.beside(source))

    def beside(self, source: ModelArch) -> ModelArch | None:
        """Return the teacher that runs beside a trial, None where a cache takes its place."""
        return source if self.teacher == "live" else None

    def breaches(self, candidate: Candidate, source: ModelArch) -> list[Breach]:
        """Return which limits a candidate breaks, the memory of the cluster that it fills too."""
        figures = (candidate.arch, self.beside(source), self.limits, self.recovery)
        return breaches(*figures) + (misfit(*figures) if self.fills_cluster else [])

    def schedule(self, entered: int) -> halving.Schedule:
        """Return the rungs where so many candidates are cut."""
        run, training = self.recovery, min(self.after_cut or entered, entered)
        return halving.plan(training, run.iters, self.factor, self.finalists, run.eval_interval)
