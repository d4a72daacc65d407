"""The settings of a search that runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning.methods import find_method
from nemo_bielik.search.settings import SearchSettings
from nemo_bielik.search.verdicts import StabilityLimits


@dataclass(kw_only=True)
class SearchConfig(SearchSettings):
    """Find the smaller shape of a model that distils best; `bielik search --plan` only reckons."""

    model: Path = field(metadata={"help": "model directory to make smaller"})
    calibration: Path = field(metadata={"help": "tokens that the cut may look at"})
    train_data: Path = field(metadata={"help": "tokens to distil on"})
    validation_data: Path = field(metadata={"help": "held-out tokens that candidates compete on"})
    output: Path = field(metadata={"help": "directory of the search"})
    method: str = field(default="minitron", metadata={"help": "pruning method of all cuts"})
    score_samples: int = field(default=256, metadata={"help": "calibration sequences"})
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
    judge: StabilityLimits = field(default_factory=StabilityLimits)
    lanes: int = field(default=2, metadata={"help": "stages or ranks that run side by side"})
    jobs_on: str | None = field(
        default=None, metadata={"help": "site on which every stage is a job of its own, not a lane"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if self.recovery.stop_after is not None:
            raise ConfigError("recovery.stop_after is set; the search itself pauses its trials")
        self.recovery.parallel.require_whole_sequences("a search's scoring", "recovery.parallel")
        if self.jobs_on is None and self.lanes < self.recovery.parallel.processes:
            raise ConfigError(
                f"lanes is {self.lanes}; recovery.parallel needs {self.recovery.parallel.processes}"
            )
