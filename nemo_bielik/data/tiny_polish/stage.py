"""The world as a stage, and what models that know no grammar score on it."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.data.tiny_polish.baselines import evaluate_baseline
from nemo_bielik.data.tiny_polish.world import WorldConfig, write_world
from nemo_bielik.evaluate.ngrams import ngram_perplexity
from nemo_bielik.files import file_sha256, write_json
from nemo_bielik.stages import describe, is_done, stage_output


@dataclass(frozen=True, kw_only=True)
class MakeWorldConfig(WorldConfig):
    """The built-in corpus and where to put it."""

    output: Path = field(metadata={"help": "directory to make"})


def make_world(config: MakeWorldConfig) -> None:
    """Write the corpus, its minimal pairs and its facts as `config.output`."""
    manifest = describe("world", config, {}, config.seed)
    if is_done(config.output, manifest):
        return
    world = WorldConfig(**{part.name: getattr(config, part.name) for part in fields(WorldConfig)})
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        results |= write_world(scratch, world)


@dataclass(kw_only=True)
class BaselineConfig:
    """A word model of the training text (minimal pairs, facts) and a token model (perplexity)."""

    world: Path
    train_data: Path
    test_data: Path
    output: Path
    order: int


def score_baseline(config: BaselineConfig) -> None:
    """Write ``results.json`` as evaluation does, for an n-gram model of `config.order` 1 or 2."""
    inputs = {
        "world": file_sha256(config.world / "world.json"),
        "train_data": tokens_fingerprint(config.train_data),
        "test_data": tokens_fingerprint(config.test_data),
    }
    manifest = describe("baseline", config, inputs)
    if is_done(config.output, manifest):
        return
    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        found = evaluate_baseline(config.world, config.order)
        for group in ("by_phenomenon", "by_relation"):
            found[group] = {name: {"accuracy": value} for name, value in found[group].items()}
        perplexity = ngram_perplexity(config.train_data, config.test_data, config.order)
        results |= {"perplexity": perplexity, **found}
        write_json(scratch / "results.json", results)
