"""Five ways to choose which layers go, each from trials on one sample.

A way returns, for every count from 1 to the most, the layers that are dropped: in the order of
removal where a count keeps the choice of the one before, ascending where it starts afresh.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_bielik.errors import ConfigError, nearest

if TYPE_CHECKING:
    from nemo_bielik.pruning.depth.trials import Trials

#: ``sets[n - 1]`` holds the n layers that are dropped at count n.
Sets = list[list[int]]
#: Returns what is stored under a name, else computes and stores it.
Recall = Callable[[str, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Way:
    """One way to choose; `passes` counts its passes over the sample, given (layers, most)."""

    name: str
    paper: str
    choose: Callable[["Trials", int, Recall], Sets]
    passes: Callable[[int, int], int]
    greedy: bool = False
    needs_items: bool = False


def block_influence(trials: "Trials", most: int, recall: Recall) -> Sets:
    """Drop the layers of lowest Block Influence in the whole model."""

    def order() -> list[int]:
        influence = trials.similarity().block_influence()
        return [int(layer) for layer in np.argsort(influence, kind="stable")[:most]]

    return _beginnings(recall("order", order))


def rescored(trials: "Trials", most: int, recall: Recall) -> Sets:
    """Drop the layer of lowest Block Influence, score what is left, and again."""

    def lowest(dropped: list[int]) -> int:
        similarity = trials.similarity(dropped)
        return similarity.layers[int(np.argmin(similarity.block_influence()))]

    return _stepwise(most, recall, lowest)


def contiguous(trials: "Trials", most: int, recall: Recall) -> Sets:
    """Drop, for each count, the block whose input and output differ by the smallest angle.

    The angle is the mean over positions of arccos(cos(x_start, x_{start + count})) / π.
    """

    def blocks() -> Sets:
        angle = trials.similarity().angle
        starts = [int(np.argmin(np.diagonal(angle, offset=count))) for count in range(1, most + 1)]
        return [list(range(start, start + n)) for n, start in enumerate(starts, start=1)]

    found: Sets = recall("blocks", blocks)
    return found


def greedy_perplexity(trials: "Trials", most: int, recall: Recall) -> Sets:
    """Drop the layer without which perplexity is lowest, and again."""
    return _stepwise(most, recall, lambda dropped: _cheapest(trials, dropped, trials.perplexity))


def greedy_task(trials: "Trials", most: int, recall: Recall) -> Sets:
    """Drop the layer without which accuracy is highest, and again; every suite counts alike.

    Of layers with the same accuracy goes the one that leaves the larger mean margin: the
    log-probability of the right sentence less that of the best wrong one.
    """

    def cost(dropped: list[int]) -> tuple[float, float]:
        scores = trials.tasks(dropped).values()
        accuracy, margin = ([getattr(s, name) for s in scores] for name in ("accuracy", "margin"))
        return -sum(accuracy) / len(accuracy), -sum(margin) / len(margin)

    return _stepwise(most, recall, lambda dropped: _cheapest(trials, dropped, cost))


def _stepwise(most: int, recall: Recall, pick: Callable[[list[int]], int]) -> Sets:
    """Drop what `pick` says, given what is dropped already; every step is remembered."""
    dropped: list[int] = []
    for step in range(1, most + 1):
        dropped = [*dropped, recall(f"step{step}", functools.partial(pick, dropped))]
    return _beginnings(dropped)


def _cheapest(trials: "Trials", dropped: list[int], cost: Callable[[list[int]], Any]) -> int:
    """Return the layer whose removal costs least; of equals the lowest."""
    left = [layer for layer in range(trials.num_layers) if layer not in dropped]
    return min(left, key=lambda layer: cost([*dropped, layer]))


def _beginnings(order: Sequence[int]) -> Sets:
    return [list(order[:count]) for count in range(1, len(order) + 1)]


def _one_pass(layers: int, most: int) -> int:
    return 1


def _every_step(layers: int, most: int) -> int:
    return most


def _every_layer_left(layers: int, most: int) -> int:
    return sum(layers - step for step in range(most))


WAYS: dict[str, Way] = {
    way.name: way
    for way in (
        Way("block-influence", "Men et al., ShortGPT, 2024", block_influence, _one_pass),
        Way("rescored", "Men et al., ShortGPT, 2024, after every drop", rescored, _every_step),
        Way(
            "contiguous",
            "Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers, 2024",
            contiguous,
            _one_pass,
        ),
        Way(
            "greedy-perplexity",
            "Song et al., SLEB, 2024",
            greedy_perplexity,
            _every_layer_left,
            greedy=True,
        ),
        Way(
            "greedy-task",
            "Song et al., SLEB, 2024, by accuracy",
            greedy_task,
            _every_layer_left,
            greedy=True,
            needs_items=True,
        ),
    )
}


def find_way(name: str) -> Way:
    """Return the way called `name`; an unknown one raises `ConfigError`."""
    if name not in WAYS:
        raise ConfigError(
            f"way {name!r} is unknown{nearest(name, WAYS)}; known are {', '.join(WAYS)}"
        )
    return WAYS[name]
