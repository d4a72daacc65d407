"""Dynamic batch loading: sequences from several domains, more from those that masks hurt more.

Xia et al., "Sheared LLaMA" (2023). The loss of every domain is measured on sequences of its own:
first without masks (the reference), then, every `update_interval` steps, under the masks' expected
values.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron.core import parallel_state
from torch.utils.data import default_collate

from nemo_bielik.errors import ConfigError
from nemo_bielik.megatron.batches import packed_dataset
from nemo_bielik.pruning import hard_concrete
from nemo_bielik.pruning.mask_hooks_mcore import MaskedModel
from nemo_bielik.pruning.mask_learning import MaskLearner
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.shearing import domain_names, drawn_domains, updated_weights


class DomainText:
    """The text of all domains: `samples` sequences of each are read over and over.

    Where there are several domains, each keeps `evaluation_samples` further sequences aside.

    Attributes:
        weights: share of each domain in the text to come.
        taken: sequences taken from each domain so far.
        references: mean loss of a token of each domain without masks; empty for one domain.
    """

    def __init__(self, config: ScoreConfig, vocab_size: int, cache: Path) -> None:
        shearing = config.shearing
        self.config = config
        self.names = domain_names(config.data, shearing.domains)
        several = len(self.names) > 1
        self.aside = shearing.evaluation_samples if several else 0
        length, seed = config.sequence_length, config.seed
        self.datasets = [
            packed_dataset(path, config.samples + self.aside, length, seed, vocab_size, cache)
            for path in (config.data, *shearing.domains)
        ]
        given = shearing.proportions or [1.0] * len(self.names)
        self.weights = [value / sum(given) for value in given]
        self.taken = [0] * len(self.names)
        self.references: list[float] = []

    def batches(self, step: int) -> list[Any]:
        """Return this rank's micro-batches of a step, for `batches.next_batch`."""
        shearing = self.config.shearing
        places = []
        for domain in drawn_domains(self.weights, shearing.batch_size, self.config.seed, step):
            places.append((domain, self.aside + self.taken[domain] % self.config.samples))
            self.taken[domain] += 1
        return self._own(places)

    def measure_references(self, model: MaskedModel) -> None:
        """Measure the domains without masks, unless that was done."""
        if self.aside and not self.references:
            self.references = self._losses(model, {})

    def update(self, model: MaskedModel, learner: MaskLearner) -> None:
        """Change the weights by the domains' losses under masks, every `update_interval` steps."""
        if not self.aside or learner.step % self.config.shearing.update_interval:
            return
        masks = {
            name: hard_concrete.expected_value(log_alpha.detach())
            for name, log_alpha in learner.log_alpha.items()
        }
        self.weights = updated_weights(self.weights, self._losses(model, masks), self.references)

    def state(self) -> dict[str, Any]:
        """Return all that a continued run needs, as JSON takes it."""
        return {"weights": self.weights, "taken": self.taken, "references": self.references}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.weights, self.taken = state["weights"], state["taken"]
        self.references = state["references"]

    def _losses(self, model: MaskedModel, masks: dict[str, Any]) -> list[float]:
        losses = []
        for domain in range(len(self.names)):
            batches = self._own([(domain, index) for index in range(self.aside)])
            total, tokens = model.loss(masks, batches)
            losses.append(total / tokens)
        return losses

    def _own(self, places: Sequence[tuple[int, int]]) -> list[Any]:
        """Return every n-th micro-batch of sequences, given as (domain, index), for rank r of n."""
        size, ranks = self.config.micro_batch_size, self.config.parallel.data
        first = parallel_state.get_data_parallel_rank() * size
        return [
            default_collate([self.datasets[d][i] for d, i in places[start : start + size]])
            for start in range(first, len(places), ranks * size)
        ]


def check_batches(config: ScoreConfig, several_domains: bool) -> None:
    """Raise `ConfigError` unless every rank gets as many full micro-batches as the others."""
    share = config.micro_batch_size * config.parallel.data
    names = ("batch_size", "evaluation_samples") if several_domains else ("batch_size",)
    for name in names:
        size = getattr(config.shearing, name)
        if size % share:
            raise ConfigError(
                f"shearing.{name} is {size}; it must be a multiple of micro_batch_size × "
                f"parallel.data = {share}"
            )
