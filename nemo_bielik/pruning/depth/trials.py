"""A model judged with some of its layers left out: nothing is written, everything is put back.

Shapes: p places in the residual stream (before every layer that is left, and after the last one),
n positions, h hidden.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nemo_bielik.artifact_files import Float64
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import CheckpointError
from nemo_bielik.evaluate.choices import ChoiceScore, accuracy, score_choices
from nemo_bielik.evaluate.language_model import LanguageModel, batches_of
from nemo_bielik.evaluate.shared_prefix import Batch, Row
from nemo_bielik.pruning.depth.samples import Sample

#: Positions whose residual streams are compared at one time, in float64.
_POSITIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Similarity:
    """Means over all positions of the cosine and the angle between places in the residual stream.

    Attributes:
        layers: the layers that are left, ascending; place i is before `layers[i]`.
        cosine: [p, p].
        angle: [p, p]; arccos(cosine) / π of each position, so 0 is the same direction, 1 opposite.
    """

    layers: list[int]
    cosine: Float64
    angle: Float64

    def block_influence(self) -> Float64:
        """Return 1 − cosine between each layer's input and output, [layers] (equation 5)."""
        return 1.0 - np.diagonal(self.cosine, offset=1)


@dataclass(frozen=True)
class TaskScore:
    """Accuracy, and by how many nats the right sentence beats the best wrong one, on average."""

    accuracy: float
    margin: float


@dataclass(frozen=True)
class Trials:
    """One model and one sample; `passed` is called after every pass over the sample."""

    model: LanguageModel
    tokenizer: TextTokenizer
    sample: Sample
    sequence_length: int
    passed: Callable[[], object]

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        return len(self.model.model.model.layers)

    def similarity(self, dropped: Collection[int] = ()) -> Similarity:
        """Compare all places of the residual stream over all positions of the sample's windows."""
        with without_layers(self.model, dropped) as layers:
            places = len(layers) + 1
            cosine, angle = np.zeros((places, places)), np.zeros((places, places))
            for states in _residual_streams(self.model, self.sample.windows):
                for some in torch.split(states, _POSITIONS_AT_ONCE):
                    cosines = _cosines(some)
                    cosine += cosines.sum(0).cpu().numpy()
                    angle += (torch.arccos(cosines) / torch.pi).sum(0).cpu().numpy()
        if not np.isfinite(cosine).all():
            raise CheckpointError(
                f"{self.model.directory}: gives hidden states that are not numbers; its weights "
                "are damaged or its training diverged"
            )
        self.passed()
        return Similarity(layers, cosine / self.sample.tokens, angle / self.sample.tokens)

    def perplexity(self, dropped: Collection[int] = ()) -> float:
        """Return exp(−Σ log P / tokens) over the sample's windows."""
        with without_layers(self.model, dropped):
            sums = self.model.log_probs([[window] for window in self.sample.windows])
        self.passed()
        return math.exp(-math.fsum(itertools.chain(*sums)) / self.sample.tokens)

    def tasks(self, dropped: Collection[int] = ()) -> dict[str, TaskScore]:
        """Return the score on each suite of items."""
        with without_layers(self.model, dropped):
            found = {
                name: _task_score(
                    score_choices(self.model, self.tokenizer, items, self.sequence_length)
                )
                for name, items in self.sample.suites.items()
            }
        self.passed()
        return found


@contextlib.contextmanager
def without_layers(model: LanguageModel, dropped: Collection[int]) -> Iterator[list[int]]:
    """Run `model` without the layers `dropped`; yields those that are left, ascending.

    A layer knows its number only for the key-value cache, which `LanguageModel` never uses.
    """
    decoder = model.model.model
    layers = decoder.layers
    left = [layer for layer in range(len(layers)) if layer not in dropped]
    decoder.layers = nn.ModuleList(layers[layer] for layer in left)
    try:
        yield left
    finally:
        decoder.layers = layers


@torch.inference_mode()
def _residual_streams(model: LanguageModel, windows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Yield the residual stream of every position from which a token is predicted, [n, p, h]."""
    decoder = model.model.model
    found: list[Tensor] = []
    handles = [
        place.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        for place in (*decoder.layers, decoder.norm)
    ]
    try:
        for places in batches_of(list(map(len, windows)), model.tokens_per_batch):
            batch = Batch.of([Row.of([windows[place]]) for place in places], model.model.device)
            decoder(input_ids=batch.tokens, use_cache=False)
            streams = [states.flatten(0, 1)[batch.sources] for states in found]
            found.clear()
            yield torch.stack(streams, dim=1)
    finally:
        for handle in handles:
            handle.remove()


def _cosines(states: Tensor) -> Tensor:
    """Return the cosines between all places of each position, [n, p, h] → float64 [n, p, p]."""
    directions = nn.functional.normalize(states.double(), dim=-1)
    return (directions @ directions.transpose(1, 2)).clamp(-1.0, 1.0)


def _task_score(scores: Sequence[ChoiceScore]) -> TaskScore:
    return TaskScore(accuracy(scores), math.fsum(map(_margin, scores)) / len(scores))


def _margin(score: ChoiceScore) -> float:
    right = score.choice.right
    wrong = max(value for place, value in enumerate(score.log_probs) if place != right)
    return score.log_probs[right] - wrong
