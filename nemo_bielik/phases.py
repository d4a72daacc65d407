"""Phases of one run: stretches of steps with a shape and data of their own, one optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bielik.errors import ConfigError

if TYPE_CHECKING:
    from nemo_bielik.training import TrainConfig, TrainSettings


@dataclass(kw_only=True)
class Phase:
    """Steps that differ from the run's settings in what is given here."""

    iters: int = field(metadata={"help": "optimizer steps of this phase"})
    sequence_length: int | None = None
    global_batch_size: int | None = None
    micro_batch_size: int | None = None
    train_data: list[Path] | None = None
    train_weights: list[float] | None = None

    def __post_init__(self) -> None:
        if self.iters < 1:
            raise ConfigError(f"iters is {self.iters}; it must be at least 1")
        if self.train_data is not None:
            self.train_data = as_paths(self.train_data)

    def changes(self) -> dict[str, Any]:
        """Return the settings that the phase changes; its data come with their own weights."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "iters"}
        found = {name: value for name, value in found.items() if value is not None}
        if "train_data" in found:
            found.setdefault("train_weights", [])
        return found


@dataclass(frozen=True)
class Stretch:
    """Steps `first_step` to `last_step` (counted from 0, the last one excluded) of one shape.

    `config` has that shape and no phases, and the steps of the whole run, by which the learning
    rate goes. `first_sample` is the number of sequences that the stretches before it read.
    """

    config: "TrainConfig"
    first_step: int
    last_step: int
    first_sample: int

    @property
    def samples(self) -> int:
        """Sequences that the stretch reads."""
        return (self.last_step - self.first_step) * self.config.global_batch_size


def as_paths(value: Sequence[Path] | Path | str) -> list[Path]:
    """Return one path, or several, as a list."""
    return [Path(value)] if isinstance(value, (str, Path)) else [Path(path) for path in value]


def shapes(settings: "TrainSettings") -> "list[tuple[int, TrainSettings]]":
    """Return (steps, settings) of every phase; raise `ConfigError` naming the phase at fault."""
    if not settings.phases:
        return [(settings.iters, settings)]
    found = []
    for number, phase in enumerate(settings.phases):
        changes = {n: v for n, v in phase.changes().items() if hasattr(settings, n)}
        try:
            found.append((phase.iters, replace(settings, phases=[], **changes)))
        except ConfigError as error:
            raise ConfigError(f"phases[{number}]: {error}") from None
    return found


def stretches(config: "TrainConfig") -> list[Stretch]:
    """Return the stretches of a run in their order; a run without phases is one."""
    found: list[Stretch] = []
    step = sample = 0
    for iters, settings in shapes(config):
        stretch = Stretch(settings, step, step + iters, sample)  # type: ignore[arg-type]
        found.append(stretch)
        step, sample = stretch.last_step, sample + stretch.samples
    return found


def stretch_at(config: "TrainConfig", step: int) -> Stretch:
    """Return the stretch that a run goes on with after `step` steps; at its end, the last one."""
    found = stretches(config)
    return next((stretch for stretch in found if step < stretch.last_step), found[-1])


def tokens_after(settings: "TrainSettings", step: int) -> int:
    """Return the tokens that the first `step` steps train on."""
    tokens = 0
    for iters, shape in shapes(settings):
        taken = min(step, iters)
        tokens += taken * shape.global_batch_size * shape.sequence_length
        step -= taken
    return tokens
