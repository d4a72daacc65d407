"""The depth stage: which layers can go, chosen in five ways, compared and judged after the cut."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik import stages
from nemo_bielik.errors import ConfigError, DataError, nearest
from nemo_bielik.pruning.depth.inputs import Inputs
from nemo_bielik.pruning.depth.ranking import DEPTH_NAME, DepthRanking
from nemo_bielik.pruning.depth.tables import tables
from nemo_bielik.pruning.depth.ways import WAYS, Way, find_way


@dataclass(kw_only=True)
class DepthConfig:
    """Choose the layers to drop in several ways, and see what each choice costs."""

    model: Path = field(metadata={"help": "model directory with its tokenizer"})
    texts: list[Path] = field(metadata={"help": "texts to choose by"})
    held_out: list[Path] = field(
        metadata={"help": "texts to judge on; documents that are in texts too are passed over"}
    )
    output: Path = field(metadata={"help": f"directory to make; holds {DEPTH_NAME}"})
    most: int = field(metadata={"help": "layers dropped at most"})
    minimal_pairs: Path | None = field(
        default=None,
        metadata={"help": "as for `bielik evaluate`; half to choose by, half to judge on"},
    )
    facts: Path | None = field(
        default=None,
        metadata={"help": "as for `bielik evaluate`; half to choose by, half to judge on"},
    )
    ways: list[str] = field(
        default_factory=list,
        metadata={"help": f"some of {', '.join(WAYS)} (default: all that the inputs allow)"},
    )
    samples: int = field(
        default=256, metadata={"help": "windows of text to choose by, and items of each suite"}
    )
    stability_sizes: list[int] = field(
        default_factory=lambda: [16, 64, 256],
        metadata={"help": "sizes of the samples on which the choices are repeated"},
    )
    repeats: int = field(
        default=5, metadata={"help": "samples of each of those sizes; 0: no repeats"}
    )
    greedy_repeats: int = field(default=3, metadata={"help": "the same for the greedy ways"})
    document_separator: str | None = field(
        default=None, metadata={"help": "line between two documents of a .txt, if not a blank one"}
    )
    sequence_length: int = field(
        default=256, metadata={"help": "tokens of a window of text, and at most of a sentence"}
    )
    batch_size: int = field(
        default=8, metadata={"help": "sequences of sequence_length a forward pass"}
    )
    seed: int = field(default=1, metadata={"help": "which windows and items are drawn"})

    def __post_init__(self) -> None:
        for name in ("texts", "held_out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give at least one text")
        for name in ("most", "samples", "sequence_length", "batch_size", "seed"):
            _require_at_least_one(name, getattr(self, name))
        for size in self.stability_sizes:
            _require_at_least_one("a size in stability_sizes", size)
        for name in ("repeats", "greedy_repeats"):
            if getattr(self, name) < 0 or getattr(self, name) == 1:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be 0 (none) or at least 2, "
                    "for only two samples can agree or not"
                )
        for way in map(find_way, self.ways):
            if way.needs_items and not self.item_files():
                raise ConfigError(f"{way.name} needs minimal_pairs or facts, by which it chooses")

    def chosen_ways(self) -> list[Way]:
        """Return the ways that were asked for, or all that the inputs allow."""
        if self.ways:
            return [way for way in WAYS.values() if way.name in self.ways]
        return [way for way in WAYS.values() if self.item_files() or not way.needs_items]

    def item_files(self) -> dict[str, Path]:
        """Return the files of items that were given, by the name of their suite."""
        given = {"minimal_pairs": self.minimal_pairs, "fact": self.facts}
        return {name: path for name, path in given.items() if path is not None}

    def repeats_of(self, way: Way) -> int:
        """Return on how many samples of each size the choice of `way` is repeated."""
        return self.greedy_repeats if way.greedy else self.repeats


def rank_layers(config: DepthConfig) -> None:
    """Choose layers to drop in every way, judge the choices, and write `config.output`.

    What is finished of an unfinished run lies in ``.OUTPUT.work``, and the same command continues
    from there. Raises `ConfigError`, `CheckpointError`, `DataError` or `StorageError` for bad
    input, before any work.
    """
    started = time.monotonic()
    inputs = Inputs.open(config)
    if not stages.is_done(config.output, inputs.manifest):
        from nemo_bielik.pruning.depth.run import rank

        work = stages.open_work(config.output, inputs.manifest)
        ranking = rank(inputs, work)
        results = {"dropped": {way: ranking.sets(way)[-1] for way in ranking.ways}}
        with stages.stage_output(config.output, inputs.manifest, results, started) as scratch:
            ranking.save(scratch / DEPTH_NAME)
        shutil.rmtree(work)
    print("\n".join(tables(DepthRanking.load(config.output / DEPTH_NAME))))


def describe(config: DepthConfig) -> list[str]:
    """Return the lines that ``bielik depth --dry-run`` adds: the cost of every part."""
    inputs = Inputs.open(config)
    if stages.is_done(config.output, inputs.manifest):
        return [f"{config.output}: already done"]
    sample = inputs.choosing.draw(config.samples, 0, config.seed)
    cost = {
        False: f"{sample.tokens:,} tokens of text",
        True: f"{sample.sentences:,} sentences of items",
    }
    again = inputs.passes - sum(map(inputs.passes_of, inputs.first_choices)) - inputs.judging_passes
    lines = [
        f"  {part.way.name:<18} {inputs.passes_of(part):>6,} over {cost[part.way.needs_items]}"
        for part in inputs.first_choices
    ]
    sizes = ", ".join(map(str, config.stability_sizes))
    return [
        f"{inputs.passes:,} forward passes, none through more layers than the model has:",
        *lines,
        f"  {'other samples':<18} {again:>6,} over samples of {sizes} windows or items",
        f"  {'judging':<18} {inputs.judging_passes:>6,} at most, over "
        f"{inputs.judging.tokens:,} tokens of text and {inputs.judging.sentences:,} sentences",
    ]


def kept_layers(directory: Path, way: str, num_layers: int, model_fingerprint: str) -> list[int]:
    """Return the `num_layers` layers, ascending, that `way` leaves of the ranked model.

    `directory` is what `bielik depth` made of the checkpoint of that fingerprint. Raises
    `DataError` if it is none or of another model, `ConfigError` for a way or a number of layers
    that it does not hold.
    """
    path = directory / DEPTH_NAME
    ranking = DepthRanking.load(path)
    if ranking.model != model_fingerprint:
        raise DataError(
            f"{path}: ranks the layers of another model; run `bielik depth` on this one"
        )
    if way not in ranking.ways:
        raise ConfigError(
            f"{path}: holds no way {way!r}{nearest(way, ranking.ways)}; it holds "
            f"{', '.join(ranking.ways)}"
        )
    fewest = ranking.num_layers - ranking.most
    if not fewest <= num_layers <= ranking.num_layers:
        raise ConfigError(
            f"{path}: num_layers is {num_layers}; this ranking goes from {ranking.num_layers} down "
            f"to {fewest}; for fewer run `bielik depth` with a larger most"
        )
    count = ranking.num_layers - num_layers
    dropped = ranking.sets(way)[count - 1] if count else []
    return [layer for layer in range(ranking.num_layers) if layer not in dropped]


def _require_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be at least 1")
