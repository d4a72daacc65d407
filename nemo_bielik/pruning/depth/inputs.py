"""The opened inputs of the depth stage, and the choices to make with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.evaluate.choices import Choice, encode_choices, read_facts, read_minimal_pairs
from nemo_bielik.evaluate.stage import check_length, check_vocabulary
from nemo_bielik.manifest import Manifest
from nemo_bielik.pruning.depth.samples import (
    Sample,
    halve,
    split_documents,
    text_windows,
)
from nemo_bielik.pruning.depth.ways import Way
from nemo_bielik.stages import describe

if TYPE_CHECKING:
    from nemo_bielik.pruning.depth.stage import DepthConfig


@dataclass(frozen=True)
class Part:
    """One choice to make: by which way, on the `number`-th sample of `size`."""

    way: Way
    size: int
    number: int

    @property
    def name(self) -> str:
        """What its result is stored under."""
        return f"{self.way.name}-{self.size}-{self.number}"


@dataclass(frozen=True)
class Inputs:
    """What one run works with; nothing that it chooses by is in `judging`."""

    config: "DepthConfig"
    checkpoint: Checkpoint
    tokenizer: TextTokenizer
    manifest: Manifest
    choosing: Sample
    judging: Sample

    @classmethod
    def open(cls, config: "DepthConfig") -> "Inputs":
        """Read and check everything; what is wrong raises the `BielikError` that says so."""
        checkpoint, tokenizer = Checkpoint.open(config.model), TextTokenizer.open(config.model)
        _check_model(config, checkpoint, tokenizer)
        choosing, judging = _read(config, tokenizer)
        paths = [*config.texts, *config.held_out, *config.item_files().values()]
        inputs = {"model": checkpoint.fingerprint(), "tokenizer": tokenizer.fingerprint}
        inputs |= {str(path): text_fingerprint(path) for path in paths}
        manifest = describe("depth", config, inputs, config.seed)
        return cls(config, checkpoint, tokenizer, manifest, choosing, judging)

    @property
    def first_choices(self) -> list[Part]:
        """The choices that are judged, one a way, on the first sample."""
        return [Part(way, self.config.samples, 0) for way in self.config.chosen_ways()]

    def repeated_choices(self, way: Way, size: int) -> list[Part]:
        """Return the choices on samples of `size` that share nothing; none if they do not fit."""
        repeats = self.config.repeats_of(way)
        if repeats * size > self.available(way):
            return []
        return [Part(way, size, number) for number in range(repeats)]

    def available(self, way: Way) -> int:
        """Return the windows, or items of the smallest suite, that samples are drawn from."""
        return self.choosing.fewest_items if way.needs_items else len(self.choosing.windows)

    def passes_of(self, part: Part) -> int:
        """Return the forward passes over its sample that a choice takes."""
        return part.way.passes(self.checkpoint.arch.num_layers, self.config.most)

    @property
    def judging_passes(self) -> int:
        """Forward passes of judging the whole model and every choice, if no two are alike."""
        suites = 2 if self.judging.suites else 1
        return suites * (1 + len(self.first_choices) * self.config.most)

    @property
    def passes(self) -> int:
        """All forward passes; a sample that is drawn twice is worked through once."""
        parts = {part.name: part for part in self.first_choices}
        for way in self.config.chosen_ways():
            for size in self.config.stability_sizes:
                parts |= {part.name: part for part in self.repeated_choices(way, size)}
        return self.judging_passes + sum(map(self.passes_of, parts.values()))


def _read(config: "DepthConfig", tokenizer: TextTokenizer) -> tuple[Sample, Sample]:
    """Return what there is to choose by and to judge on."""
    texts = split_documents(config.texts, config.held_out, config.document_separator)
    choosing, judging = (text_windows(own, tokenizer, config.sequence_length) for own in texts)
    for windows, paths in ((choosing, config.texts), (judging, config.held_out)):
        if not windows:
            raise DataError(f"{_listed(paths)}: holds not a single token; give more text")
    if len(choosing) < config.samples:
        raise DataError(
            f"{_listed(config.texts)}: {len(choosing):,} different windows of text, samples is "
            f"{config.samples:,}; give more text or fewer samples"
        )
    suites = {name: _items(name, path) for name, path in config.item_files().items()}
    for items in suites.values():
        encode_choices(tokenizer, items, config.sequence_length)  # too long a sentence ends it here
    halves = {name: halve(items, config.item_files()[name]) for name, items in suites.items()}
    return (
        Sample(choosing, {name: half for name, (half, _) in halves.items()}),
        Sample(judging, {name: half for name, (_, half) in halves.items()}),
    )


def _items(suite: str, path: Path) -> list[Choice]:
    return read_minimal_pairs(path) if suite == "minimal_pairs" else read_facts(path)


def _check_model(config: "DepthConfig", checkpoint: Checkpoint, tokenizer: TextTokenizer) -> None:
    arch = checkpoint.arch
    if config.most >= arch.num_layers:
        raise ConfigError(
            f"most is {config.most}; {config.model} has {arch.num_layers} layers, of which at "
            "least one must stay"
        )
    check_length(config.sequence_length, checkpoint)
    check_vocabulary(checkpoint, tokenizer)


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths))
