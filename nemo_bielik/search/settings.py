"""What a search and the plan of one have in common: candidates, limits, rungs and their run."""

from dataclasses import dataclass, field
from typing import Literal

from nemo_bielik.arch import ModelArch
from nemo_bielik.checks import check_choices
from nemo_bielik.errors import ConfigError
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.search import halving
from nemo_bielik.search.candidates import Candidate, Generation, generate, paper, resolve
from nemo_bielik.search.limits import Limits, breaches
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
    factor: int = field(
        default=3, metadata={"help": "one in so many goes on, to so many times the steps"}
    )
    finalists: int = field(default=2, metadata={"help": "candidates that train to the end"})
    recovery: TrainSettings = field(default_factory=minitron_7b.recovery)

    def __post_init__(self) -> None:
        check_choices(self)
        if self.preset != "none" and self.candidates:
            raise ConfigError("of preset and candidates, both are given; give one")
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

    def choose(self, source: ModelArch) -> list[Candidate]:
        """Return the candidates; raise `ConfigError` for what cannot be cut out of `source`."""
        if self.candidates:
            return resolve(self.candidates, source)
        if self.preset == "paper":
            return paper(source)
        if not self.limits.given:
            raise ConfigError(
                "no candidates are named and nothing limits them; give candidates, preset=paper, "
                "or limits to generate within, such as limits.max_parameters"
            )
        return generate(source, self.limits, self.generate, self.recovery)

    def breaches(self, candidate: Candidate, source: ModelArch) -> list[str]:
        """Return which limits a candidate breaks."""
        return breaches(candidate.arch, source, self.limits, self.recovery)

    def schedule(self, candidates: int) -> halving.Schedule:
        """Return the rungs for so many candidates."""
        run = self.recovery
        return halving.plan(candidates, run.iters, self.factor, self.finalists, run.eval_interval)
