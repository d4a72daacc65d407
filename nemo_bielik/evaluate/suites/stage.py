"""Suites as part of `bielik evaluate`: settings to a model, suites to results."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.suites.catalog import find_suites
from nemo_bielik.files import write_json

if TYPE_CHECKING:
    from nemo_bielik.evaluate.config import EvaluateConfig
    from nemo_bielik.evaluate.language_model import LanguageModel
    from nemo_bielik.evaluate.suites.run import Runner

ITEMS_NAME = "items.jsonl"
RESULTS_NAME = "results.json"


def evaluate_suites(
    config: "EvaluateConfig", model: "LanguageModel | None", work: Path, items: TextIO
) -> dict[str, Any]:
    """Run `config.suites` on `model`, or on `config.endpoint`, and return their results by name.

    Items and results of the suites that are done also lie in `work`, beside the answers of those
    that are not; it is the caller's to remove when all is written.
    """
    try:
        runner = _runner(config, model, work)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"suites need {error.name or 'the server packages of lm-eval'}, which is not "
            "installed; run 'make env' or install nemo-bielik[evaluate]"
        ) from error
    results: dict[str, Any] = {}
    with (work / ITEMS_NAME).open("w", encoding="utf-8") as partial:
        for name, found in runner.run(partial):
            results[name] = found
            write_json(work / RESULTS_NAME, {"suites": results})
    with (work / ITEMS_NAME).open(encoding="utf-8") as partial:
        shutil.copyfileobj(partial, items)
    return results


def _runner(config: "EvaluateConfig", model: "LanguageModel | None", work: Path) -> "Runner":
    from nemo_bielik.evaluate.suites import models
    from nemo_bielik.evaluate.suites.answers import quiet
    from nemo_bielik.evaluate.suites.run import Runner

    common: dict[str, Any] = {
        "suites": find_suites(config.suites),
        "data_dir": config.data_dir,
        "limit": config.limit,
        "work": work,
        "chat": config.chat,
    }
    if model is not None:
        tokenizer = models.load_tokenizer(config.tokenizer or model.directory)
        if config.chat:
            models.check_chat(tokenizer, config.tokenizer or model.directory)
        with quiet():
            lm: Any = models.here(model, tokenizer, config.batch_size)
        return Runner(lm=lm, max_tokens=lm.max_length, **common)
    assert config.endpoint is not None and config.endpoint_model is not None
    with quiet():
        if config.chat:
            lm = models.ChatEndpoint(config.endpoint, config.endpoint_model, config.concurrency)
            missing = lm.missing()
        else:
            lm, missing = _completions(config, config.endpoint, config.endpoint_model)
    return Runner(lm=lm, no_choices=missing, address=lm.address, **common)


def _completions(config: "EvaluateConfig", url: str, model: str) -> tuple[Any, str]:
    """Return the endpoint and what it lacks for choices; it then gets prompts as plain text."""
    from nemo_bielik.evaluate.suites.models import Endpoint

    lm = Endpoint(url, model, config.tokenizer or config.model, config.concurrency)
    missing = lm.missing()
    if missing and lm.tokenizer is not None:
        lm = Endpoint(url, model, None, config.concurrency)
    return lm, missing
