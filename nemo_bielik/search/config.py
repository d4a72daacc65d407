"""The settings of a search that runs."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.errors import ConfigError
from nemo_bielik.search.settings import SearchSettings


@dataclass(kw_only=True)
class SearchConfig(SearchSettings):
    """Find the smaller shape of a model that distils best; `bielik search --plan` only reckons."""

    model: Path = field(metadata={"help": "model directory to make smaller"})
    calibration: Path = field(metadata={"help": "tokens that the cut may look at"})
    train_data: Path = field(metadata={"help": "tokens to distil on"})
    validation_data: Path = field(metadata={"help": "held-out tokens that candidates compete on"})
    output: Path = field(metadata={"help": "directory of the search"})
    score_samples: int = field(default=256, metadata={"help": "calibration sequences"})
    lanes: int = field(default=2, metadata={"help": "stages or ranks that run side by side"})
    stop_before_last_rung: bool = field(
        default=False,
        metadata={"help": "end there, with a forecast; the same command without it goes on"},
    )
    jobs_on: str | None = field(
        default=None, metadata={"help": "site on which every stage is a job of its own, not a lane"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.recovery.stop_after is not None:
            raise ConfigError("recovery.stop_after is set; the search itself pauses its trials")
        self.recovery.parallel.require_whole_sequences("a search's scoring", "recovery.parallel")
        if self.jobs_on is None and self.lanes < self.recovery.parallel.processes:
            raise ConfigError(
                f"lanes is {self.lanes}; recovery.parallel needs "
                f"{self.recovery.parallel.processes}: allow as many lanes, give jobs_on, or take "
                "a smaller run (recovery.parallel.data=1; --factory tiny is one for a laptop)"
            )
