"""The work of the depth stage: choose on every sample, judge the choices, remember what is done."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nemo_bielik.evaluate.language_model import LanguageModel
from nemo_bielik.files import value_sha256, write_json
from nemo_bielik.progress import progress
from nemo_bielik.pruning.depth.inputs import Inputs, Part
from nemo_bielik.pruning.depth.ranking import Cut, DepthRanking, Stability
from nemo_bielik.pruning.depth.samples import Sample
from nemo_bielik.pruning.depth.trials import Trials
from nemo_bielik.pruning.depth.ways import Sets


def rank(inputs: Inputs, work: Path) -> DepthRanking:
    """Make every choice and judge it; what is finished is kept in the directory `work`."""
    config = inputs.config
    with progress(total=inputs.passes, unit="pass", desc=config.output.name) as bar:
        model = LanguageModel.open(inputs.checkpoint, config.batch_size * config.sequence_length)
        run = _Run(inputs, model, work, bar)
        whole = run.measured([])
        ways = {part.way.name: run.judged(run.chosen(part)) for part in inputs.first_choices}
        return DepthRanking(
            model=inputs.checkpoint.fingerprint(),
            num_layers=inputs.checkpoint.arch.num_layers,
            whole=whole,
            ways=ways,
            chosen_by=_sizes(inputs.choosing.draw(config.samples, 0, config.seed)),
            judged_on=_sizes(inputs.judging),
            stability=[
                run.repeated(part.way, size)
                for part in inputs.first_choices
                if config.repeats_of(part.way)
                for size in config.stability_sizes
            ],
        )


class _Run:
    """A model at work on its samples, with the progress over all of them."""

    def __init__(self, inputs: Inputs, model: LanguageModel, work: Path, bar: Any) -> None:
        self.inputs, self.model, self.work, self.bar = inputs, model, work, bar
        self.passes = 0

    def chosen(self, part: Part) -> Sets:
        """Return what one way drops at every count, by one sample."""
        config = self.inputs.config
        trials = self._trials(self.inputs.choosing.draw(part.size, part.number, config.seed))

        def recall(name: str, compute: Callable[[], Any]) -> Any:
            return self._recall(f"{part.name}-{name}", compute)

        return part.way.choose(trials, config.most, recall)

    def repeated(self, way: Any, size: int) -> Stability:
        """Return what one way drops by several samples of one size."""
        return Stability(
            way=way.name,
            size=size,
            available=self.inputs.available(way),
            choices=[self.chosen(part) for part in self.inputs.repeated_choices(way, size)],
        )

    def judged(self, sets: Sets) -> list[Cut]:
        """Return each set of dropped layers with what was measured without them."""
        return [Cut(dropped=dropped, measured=self.measured(dropped)) for dropped in sets]

    def measured(self, dropped: list[int]) -> dict[str, float]:
        """Return perplexity and accuracies on what nothing was chosen by."""
        trials = self._trials(self.inputs.judging)

        def measure() -> dict[str, float]:
            found = {"perplexity": trials.perplexity(dropped)}
            tasks = trials.tasks(dropped) if trials.sample.suites else {}
            return found | {f"{name}_accuracy": score.accuracy for name, score in tasks.items()}

        found: dict[str, float] = self._recall(f"judged-{value_sha256(sorted(dropped))}", measure)
        return found

    def _trials(self, sample: Sample) -> Trials:
        length = self.inputs.config.sequence_length
        return Trials(self.model, self.inputs.tokenizer, sample, length, self._passed)

    def _passed(self) -> None:
        self.passes += 1
        self.bar.update()

    def _recall(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return what an earlier run, or this one, stored under `name`; else compute it."""
        path = self.work / f"{name}.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            self.bar.update(stored["passes"])
            return stored["value"]
        before = self.passes
        value = compute()
        write_json(path, {"passes": self.passes - before, "value": value})
        return value


def _sizes(sample: Sample) -> dict[str, int]:
    items = {f"{name} items": len(own) for name, own in sample.suites.items()}
    return {"windows": len(sample.windows), "tokens": sample.tokens, **items}
