"""The evaluation stage: a model directory in, ``results.json`` and ``items.jsonl`` out."""

import dataclasses
import json
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
from nemo_bielik.files import write_json
from nemo_bielik.progress import progress
from nemo_bielik.stages import describe, is_done, stage_output

if TYPE_CHECKING:
    from nemo_bielik.evaluate.language_model import LanguageModel

RESULTS_NAME = "results.json"
ITEMS_NAME = "items.jsonl"


@dataclass(kw_only=True)
class EvaluateConfig:
    """Perplexity on texts, and the share of minimal pairs and facts that a model gets right."""

    model: Path = field(metadata={"help": "model directory with its tokenizer"})
    output: Path = field(metadata={"help": "directory to make"})
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
        if not self.texts and self.minimal_pairs is None and self.facts is None:
            raise ConfigError("nothing to evaluate: give texts, minimal_pairs or facts")
        for name in ("sequence_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True)
class Evaluation:
    """The opened inputs of one run."""

    config: EvaluateConfig
    model: "LanguageModel"
    tokenizer: TextTokenizer
    minimal_pairs: list[Choice]
    facts: list[Choice]


def evaluate(config: EvaluateConfig) -> None:
    """Evaluate `config.model` and write `config.output`; bad input is refused before any work."""
    checkpoint = Checkpoint.open(config.model)
    tokenizer = TextTokenizer.open(config.model)
    check_length(config.sequence_length, checkpoint)
    check_vocabulary(checkpoint, tokenizer)
    pairs = read_minimal_pairs(config.minimal_pairs) if config.minimal_pairs else []
    facts = read_facts(config.facts) if config.facts else []
    manifest = describe("evaluate", config, _inputs(config, checkpoint, tokenizer))
    if is_done(config.output, manifest):
        return

    from nemo_bielik.evaluate.language_model import LanguageModel

    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        model = LanguageModel.open(checkpoint, config.batch_size * config.sequence_length)
        evaluation = Evaluation(config, model, tokenizer, pairs, facts)
        with (scratch / ITEMS_NAME).open("w", encoding="utf-8") as items:
            results |= run_suites(evaluation, items)
        write_json(scratch / RESULTS_NAME, results)


def run_suites(evaluation: Evaluation, items: TextIO) -> dict[str, Any]:
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


def _inputs(
    config: EvaluateConfig, checkpoint: Checkpoint, tokenizer: TextTokenizer
) -> dict[str, str]:
    inputs = {"model": checkpoint.fingerprint(), "tokenizer": tokenizer.fingerprint}
    paths = [*config.texts, config.minimal_pairs, config.facts]
    return inputs | {str(path): text_fingerprint(path) for path in paths if path is not None}


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
