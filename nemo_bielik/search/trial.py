"""One candidate's distillation, taken part by part, and what its metrics say.

A rung trains the first part of the *whole* run and pauses (`stop_after`): text, warm-up and cosine
are those of the run to the end. So at a rung's end all candidates have read the same text at the
same rates; one that goes on continues where it paused, and in the end is the model that a run
without pauses gives. Short runs with a cosine of their own would each anneal, be started again for
the next rung, and compare candidates at the end of a schedule that none of them will have.

The record of a trial is its metrics file: nothing else says how far it came, so a search that was
killed at any moment reads the same figures again, or takes the missing steps again.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from nemo_bielik.distill.stage import DistillConfig, recipe
from nemo_bielik.report.gather import read_metrics
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.curves import binned
from nemo_bielik.stages import is_done, work_directory


@dataclass(frozen=True)
class Record:
    """What a trial has left so far.

    Attributes:
        steps: one line of metrics for every step that was taken.
        validations: step → held-out KL to the teacher; step 0 is right after the cut.
        incident: the step at which the engine stopped it for good and why, if it did.
    """

    steps: list[dict[str, Any]]
    validations: dict[int, float]
    incident: tuple[int, str] | None = None

    def has_reached(self, step: int) -> bool:
        """Whether the trial needs no further training to be judged at `step`."""
        return step in self.validations or bool(self.incident_by(step))

    def incident_by(self, step: int) -> str:
        """Return what ended the trial up to `step`, "" if nothing did."""
        if self.incident is None or self.incident[0] > step:
            return ""
        return f"step {self.incident[0]}: {self.incident[1]}"

    def kl(self, step: int) -> float:
        """Return the held-out KL at `step`; infinite where the trial ended before."""
        found = self.validations.get(step, math.inf)
        return found if math.isfinite(found) else math.inf

    def losses(self, first: int, last: int) -> list[tuple[float, float]]:
        """Return (tokens, training loss) of steps `first` (excluded) to `last`."""
        return [
            (line["tokens"], line["loss"])
            for line in self.steps
            if first < line["step"] <= last and "loss" in line
        ]

    def grad_norms(self, first: int, last: int) -> list[float]:
        """Return the gradient norms of the same steps, before clipping."""
        return [
            float(line["grad_norm"])
            for line in self.steps
            if first < line["step"] <= last and "loss" in line
        ]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step that was taken."""
        return next(float(line["learning_rate"]) for line in self.steps if line["step"] == step)

    def seconds_at(self, step: int) -> float:
        """Return the seconds of the run up to `step`, validations among them."""
        return max((line["seconds"] for line in self.steps if line["step"] <= step), default=0.0)

    def last_step(self, most: int) -> int:
        """Return the last step taken, `most` at most: a step beyond is another search's."""
        return max((line["step"] for line in self.steps if line["step"] <= most), default=0)


@dataclass(frozen=True)
class Trial:
    """A candidate with a seed; `config` is its whole run, whose `output` appears at its end."""

    candidate: Candidate
    seed: int
    config: DistillConfig

    def part(self, step: int) -> DistillConfig:
        """Return the settings that train up to `step`; 0 validates the pruned model."""
        whole = step == self.config.iters
        return self.config if whole else replace(self.config, stop_after=step)

    def is_done(self, step: int) -> bool:
        """Whether `step` needs no further work.

        Raises `StorageError` if what is there was made with other settings.
        """
        output, work = self.config.output, work_directory(self.config.output)
        if not output.exists() and not work.exists():
            return False
        manifest = self._recipe
        if is_done(output, manifest):
            return True
        return (
            is_done(work, manifest) and step < self.config.iters and self.record().has_reached(step)
        )

    @cached_property
    def _recipe(self) -> Any:
        return recipe(self.config)

    def record(self) -> Record:
        """Read what the trial has left so far."""
        output = self.config.output
        place = output / "training" if output.exists() else work_directory(output)
        lines = read_metrics(place / "metrics.jsonl")
        incidents = read_metrics(place / "incidents.jsonl")
        limits = self.config.stability
        ended = incidents and (limits.policy == "stop" or len(incidents) > limits.max_incidents)
        last = incidents[-1] if incidents else {}
        return Record(
            steps=[line for line in lines if "tokens" in line],
            validations={
                line["step"]: float(line["validation_loss"])
                for line in lines
                if "validation_loss" in line
            },
            incident=(int(last["step"]), str(last["reason"])) if ended else None,
        )


def curves(record: Record, last: int) -> dict[str, list[list[float]]]:
    """Return the (tokens, loss) curves up to step `last`: held-out, and training in means."""
    per_step = record.steps[0]["tokens"] / record.steps[0]["step"] if record.steps else 0.0
    return {
        "validation": [
            [step * per_step, kl] for step, kl in record.validations.items() if step <= last
        ],
        "training": [list(point) for point in binned(record.losses(0, last), bins=24)],
    }
