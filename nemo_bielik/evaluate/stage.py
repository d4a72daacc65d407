"""The evaluation stage: a model in, ``results.json`` and ``items.jsonl`` out."""

import dataclasses
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text import read_documents, text_bytes, text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import CheckpointError, ConfigError, DataError
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
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.evaluate.perplexity import DocumentScore, score_text, summarize
from nemo_bielik.evaluate.suites.bfcl import read_bfcl
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.evaluate.suites.data import suites_data
from nemo_bielik.evaluate.suites.euroeval import read_euroeval
from nemo_bielik.evaluate.suites.external import External
from nemo_bielik.evaluate.suites.listing import print_results
from nemo_bielik.evaluate.suites.packages import run_packages
from nemo_bielik.evaluate.suites.scores import read_scores
from nemo_bielik.evaluate.suites.stage import evaluate_suites
from nemo_bielik.files import value_sha256, write_json
from nemo_bielik.progress import progress
from nemo_bielik.stages import claim_work, describe, is_done, stage_output, work_directory

if TYPE_CHECKING:
    from nemo_bielik.evaluate.language_model import LanguageModel

RESULTS_NAME = "results.json"
ITEMS_NAME = "items.jsonl"
#: Settings that may change while the answers that are there stay good. A server that was started
#: again may have another address; what it serves is known by the model's name either way.
_FREE_IN_A_CONTINUATION = (
    "limit",
    "suites",
    "data_dir",
    "batch_size",
    "concurrency",
    "endpoint",
)


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
    external = _external(config)
    models = _models(config, checkpoint, tokenizer)
    manifest = describe("evaluate", config, models | _data(config, external))
    if is_done(config.output, manifest):
        return

    results: dict[str, Any] = {}
    with stage_output(config.output, manifest, results) as scratch:
        model = None
        if checkpoint and config.asks_the_model:
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
                ran, missing = run_packages(config, work)
                external += ran
                for name, reason in missing.items():
                    results["suites"][name]["reason"] = reason
            for suite in external:
                results.setdefault("suites", {})[suite.name] = suite.summary
                for item in suite.items:
                    _write_item(items, item)
        _check_measured(config, results)
        write_json(scratch / RESULTS_NAME, results)
    if config.suites:
        shutil.rmtree(work_directory(config.output))
    print_results(results.get("suites", {}))


def _check_measured(config: EvaluateConfig, results: dict[str, Any]) -> None:
    """Raise `DataError`, with each suite's reason printed, if suites are all and none was run."""
    suites = results.get("suites", {})
    if set(results) == {"suites"} and all(one["status"] == "not run" for one in suites.values()):
        print_results(suites)
        shutil.rmtree(work_directory(config.output), ignore_errors=True)
        raise DataError(f"{config.output}: nothing to write, because no suite could be run")


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


def _external(config: EvaluateConfig) -> list[External]:
    found = []
    if config.bfcl:
        found.append(read_bfcl(config.bfcl, config.external_model))
    if config.euroeval:
        found.append(read_euroeval(config.euroeval, config.external_model))
    for path in config.scores:
        suite = read_scores(path)
        if suite.name in [one.name for one in found]:
            raise DataError(f"{path}: suite {suite.name} is in another file of scores too")
        found.append(suite)
    return found


def _models(
    config: EvaluateConfig, checkpoint: Checkpoint | None, tokenizer: TextTokenizer | None
) -> dict[str, str]:
    found = {"model": checkpoint.fingerprint()} if checkpoint else {}
    if config.tokenizer:
        found["served tokenizer"] = TextTokenizer.open(config.tokenizer).fingerprint
    return found | ({"tokenizer": tokenizer.fingerprint} if tokenizer else {})


def _data(config: EvaluateConfig, external: list[External]) -> dict[str, str]:
    paths = [*config.texts, config.minimal_pairs, config.facts]
    found = {str(path): text_fingerprint(path) for path in paths if path is not None}
    found |= {suite.name: value_sha256([suite.summary, suite.items]) for suite in external}
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
