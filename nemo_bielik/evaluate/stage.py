"""The evaluation stage: a model in, ``results.json`` and ``items.jsonl`` out."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import read_documents, text_bytes, text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import CheckpointError, ConfigError
from nemo_bielik.evaluate.choices import (
    Choice,
    ChoiceScore,
    accuracy,
    by_group,
    chance,
    read_facts,
    read_minimal_pairs,
    score_choices,
)
from nemo_bielik.evaluate.perplexity import DocumentScore, score_text, summarize
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.data import suites_data
from nemo_bielik.evaluate.suites.listing import print_results
from nemo_bielik.evaluate.suites.stage import evaluate_suites
from nemo_bielik.files import write_json
from nemo_bielik.progress import progress
from nemo_bielik.stages import claim_work, describe, is_done, stage_output, work_directory

if TYPE_CHECKING:
    from nemo_bielik.evaluate.language_model import LanguageModel

RESULTS_NAME = "results.json"
ITEMS_NAME = "items.jsonl"
#: Settings that may change while the answers that are there stay good.
_FREE_IN_A_CONTINUATION = ("limit", "suites", "data_dir", "batch_size", "concurrency")


@dataclass(kw_only=True)
class EvaluateConfig:
    """Perplexity, minimal pairs, facts and benchmark suites ('bielik suites' lists them)."""

    model: Path | None = field(
        default=None, metadata={"help": "model directory with its tokenizer, if not an endpoint"}
    )
    output: Path = field(metadata={"help": "directory to make"})
    suites: list[str] = field(
        default_factory=list, metadata={"help": "benchmark suites, or 'all' of them"}
    )
    data_dir: Path | None = field(
        default=None, metadata={"help": "where the suites' datasets lie: DIR/OWNER/NAME"}
    )
    limit: int | None = field(
        default=None, metadata={"help": "take only the first N items of every task of the suites"}
    )
    chat: bool = field(
        default=False, metadata={"help": "ask the suites through the model's chat template"}
    )
    endpoint: str | None = field(
        default=None,
        metadata={"help": "an OpenAI-compatible server for the suites: http://HOST:PORT/v1"},
    )
    endpoint_model: str | None = field(
        default=None, metadata={"help": "the model's name on that server"}
    )
    tokenizer: Path | None = field(
        default=None, metadata={"help": "directory of the served model's tokenizer, for choices"}
    )
    concurrency: int = field(default=8, metadata={"help": "requests to the server at a time"})
    texts: list[Path] = field(
        default_factory=list, metadata={"help": "texts for perplexity, all together"}
    )
    minimal_pairs: Path | None = field(
        default=None, metadata={"help": 'JSON lines of "phenomenon", "good" and "bad"'}
    )
    facts: Path | None = field(
        default=None,
        metadata={"help": 'JSON lines of "relation", "prompt", "answer", "candidates", "suffix"'},
    )
    document_separator: str | None = field(
        default=None, metadata={"help": "line between two documents of a .txt, if not a blank one"}
    )
    sequence_length: int = field(
        default=256, metadata={"help": "tokens of a window of text, and at most of a sentence"}
    )
    batch_size: int = field(
        default=8,
        metadata={"help": "sequences of sequence_length a forward pass; of shorter ones, more"},
    )

    def __post_init__(self) -> None:
        if not self.suites and not self._needs_weights:
            raise ConfigError("nothing to evaluate: give suites, texts, minimal_pairs or facts")
        for name in ("sequence_length", "batch_size", "concurrency", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        find_suites(self.suites)
        if self.endpoint is None:
            if self.model is None:
                raise ConfigError("model is not given; give a model directory or an endpoint")
            return
        if not self.endpoint.startswith(("http://", "https://")):
            raise ConfigError(f"endpoint is {self.endpoint!r}; it must be http://HOST:PORT/v1")
        if not self.endpoint_model:
            raise ConfigError("endpoint_model is not given; name the model as the server does")
        if self._needs_weights:
            raise ConfigError(
                "texts, minimal_pairs and facts need the model itself; an endpoint serves suites "
                "only (minimal pairs are one of them)"
            )

    @property
    def _needs_weights(self) -> bool:
        return bool(self.texts or self.minimal_pairs or self.facts)


@dataclass(frozen=True)
class Evaluation:
    """The opened inputs of one run."""

    config: EvaluateConfig
    model: "LanguageModel"
    tokenizer: TextTokenizer
    minimal_pairs: list[Choice]
    facts: list[Choice]


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate a model and write `config.output`; bad input is refused before any work.

    Answers to suites are kept as they come: after a kill the same command asks only for the rest.
    """
    checkpoint = None if config.endpoint or config.model is None else _checkpoint(config)
    tokenizer = TextTokenizer.open(checkpoint.directory) if checkpoint else None
    if checkpoint and tokenizer:
        check_vocabulary(checkpoint, tokenizer)
    pairs = read_minimal_pairs(config.minimal_pairs) if config.minimal_pairs else []
    facts = read_facts(config.facts) if config.facts else []
    models = _models(config, checkpoint, tokenizer)
    manifest = describe("evaluate", config, models | _data(config))
    if is_done(config.output, manifest):
        return

    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        model = None
        if checkpoint:
            from nemo_bielik.evaluate.language_model import LanguageModel

            model = LanguageModel.open(checkpoint, config.batch_size * config.sequence_length)
        with (scratch / ITEMS_NAME).open("w", encoding="utf-8") as items:
            if model and tokenizer:
                evaluation = Evaluation(config, model, tokenizer, pairs, facts)
                results |= score_texts_and_choices(evaluation, items)
            if config.suites:
                work = work_directory(config.output)
                work.mkdir(parents=True, exist_ok=True)
                recipe = dataclasses.replace(manifest, inputs=models)
                claim_work(work, recipe, ignore=_FREE_IN_A_CONTINUATION)
                results["suites"] = evaluate_suites(config, model, work, items)
        write_json(scratch / RESULTS_NAME, results)
    if config.suites:
        shutil.rmtree(work_directory(config.output))
        print_results(results["suites"])


def score_texts_and_choices(evaluation: Evaluation, items: TextIO) -> dict[str, Any]:
    """Return the results of what was asked for, and write one JSON line an item to `items`."""
    results: dict[str, Any] = {}
    if evaluation.config.texts:
        results |= summarize(_recorded(_text_scores(evaluation), items))
    if evaluation.minimal_pairs:
        scores = _choice_scores(evaluation, evaluation.minimal_pairs, "minimal_pairs", items)
        results["minimal_pairs_accuracy"] = accuracy(scores)
        results["by_phenomenon"] = by_group(scores)
    if evaluation.facts:
        scores = _choice_scores(evaluation, evaluation.facts, "facts", items)
        results["fact_accuracy"] = accuracy(scores)
        results["fact_chance"] = chance(scores)
        results["by_relation"] = by_group(scores)
    return results


def _text_scores(evaluation: Evaluation) -> Iterator[DocumentScore]:
    config = evaluation.config
    with progress(
        total=text_bytes(config.texts), unit="B", unit_scale=True, desc="perplexity"
    ) as bar:
        for path in config.texts:
            documents = read_documents(path, config.document_separator, bar.update)
            yield from score_text(
                evaluation.model, evaluation.tokenizer, documents, config.sequence_length, str(path)
            )


def _recorded(scores: Iterable[DocumentScore], items: TextIO) -> Iterator[DocumentScore]:
    for score in scores:
        _write_item(items, {"suite": "perplexity", **dataclasses.asdict(score)})
        yield score


def _choice_scores(
    evaluation: Evaluation, choices: list[Choice], suite: str, items: TextIO
) -> list[ChoiceScore]:
    sentences = sum(len(choice.sentences) for choice in choices)
    with progress(total=sentences, unit="sentences", desc=suite.replace("_", " ")) as bar:
        scores = score_choices(
            evaluation.model,
            evaluation.tokenizer,
            choices,
            evaluation.config.sequence_length,
            bar.update,
        )
    for score in scores:
        choice = score.choice
        item = {
            "suite": suite,
            "group": choice.group,
            "sentence": choice.sentences[choice.right],
            "right": choice.labels[choice.right],
            "log_probs": dict(zip(choice.labels, score.log_probs, strict=True)),
            "score": score.score,
        }
        _write_item(items, item)
    return scores


def _write_item(items: TextIO, item: dict[str, Any]) -> None:
    items.write(json.dumps(item, ensure_ascii=False) + "\n")


def _checkpoint(config: EvaluateConfig) -> Checkpoint:
    assert config.model is not None
    checkpoint = Checkpoint.open(config.model)
    check_length(config.sequence_length, checkpoint)
    return checkpoint


def _models(
    config: EvaluateConfig, checkpoint: Checkpoint | None, tokenizer: TextTokenizer | None
) -> dict[str, str]:
    found = {"model": checkpoint.fingerprint()} if checkpoint else {}
    if config.tokenizer:
        found["served tokenizer"] = TextTokenizer.open(config.tokenizer).fingerprint
    return found | ({"tokenizer": tokenizer.fingerprint} if tokenizer else {})


def _data(config: EvaluateConfig) -> dict[str, str]:
    paths = [*config.texts, config.minimal_pairs, config.facts]
    found = {str(path): text_fingerprint(path) for path in paths if path is not None}
    return found | suites_data(find_suites(config.suites), config.data_dir)


def check_length(sequence_length: int, checkpoint: Checkpoint) -> None:
    """Raise `ConfigError` if the model knows fewer positions than `sequence_length`."""
    positions = checkpoint.arch.max_position_embeddings
    if sequence_length > positions:
        raise ConfigError(
            f"sequence_length is {sequence_length}; {checkpoint.directory} knows {positions} "
            "positions at most"
        )


def check_vocabulary(checkpoint: Checkpoint, tokenizer: TextTokenizer) -> None:
    """Raise `CheckpointError` if the tokenizer has ids that the model does not know.

    A model may have more ids than its tokenizer: embeddings are often padded.
    """
    known, wanted = checkpoint.arch.vocab_size, tokenizer.vocab_size
    if wanted > known:
        raise CheckpointError(
            f"{checkpoint.directory}: its tokenizer has {wanted} tokens, the model only {known}; "
            "put the model's own tokenizer beside it"
        )
