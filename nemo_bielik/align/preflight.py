"""What is looked at before a fine-tuning begins: the template, what is lost, what carries loss.

All of it from the tokens' files and tokenizers, without the engine: ``--dry-run`` shows it too.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from nemo_bielik.align.settings import AlignConfig
from nemo_bielik.checkpoint import Checkpoint, read_json, tokenizer_files
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.generation import GENERATION_CONFIG, end_ids
from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.data.sources import data_directories
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.files import write_json
from nemo_bielik.manifest import Manifest

#: Documents that are looked at for how a turn ends.
_LOOKED_AT = 100

Report = dict[str, Any]


@dataclass(frozen=True)
class Preflight:
    """What was found: a report by setting, where the chat template comes from, how a turn ends."""

    reports: dict[str, Report]
    tokenizer: ChatTokenizer
    end_of_turn: int

    @classmethod
    def of(cls, config: AlignConfig, report: Callable[[Path, int], Report]) -> Self:
        """Look at all data of a run.

        Args:
            report: makes the report of one directory for a sequence length.

        Raises:
            CheckpointError: the model has no chat template, one that does not have the end of the
                assistant's turn learned, or is too small for its tokens.
            DataError: tokens of another tokenizer or template, or examples that do not fit where
                `config.unfit` is ``stop``.
        """
        tokenizer = ChatTokenizer.open(getattr(config, "tokenizer", None) or config.model)
        data = data_directories(config)
        reports = {}
        for name, directory in data.items():
            _check_tokens(name, directory, tokenizer)
            reports[name] = report(directory, config.sequence_length)
            _check_fit(directory, reports[name], config)
        _check_vocabulary(config.model, tokenizer.directory)
        ending = _end_of_turn(config.train_data[0])
        _check_ending(ending, tokenizer, config.model)
        return cls(reports, tokenizer, ending)

    def lines(self) -> list[str]:
        """Return the reports in words."""
        ending = self.tokenizer.tokenizer.convert_ids_to_tokens(self.end_of_turn)
        found = [_in_words(name, report) for name, report in self.reports.items()]
        return [*found, f"the assistant's turn ends with {ending!r} ({self.end_of_turn})"]

    def say(self) -> None:
        """Print the reports once, whoever of the ranks asks."""
        if os.environ.get("RANK", "0") == "0":
            print(*self.lines(), sep="\n", file=sys.stderr, flush=True)

    def notes(self) -> dict[str, Any]:
        """Return what the output's manifest keeps."""
        return {"preflight": self.reports}

    def complete(self, directory: Path) -> None:
        """Give a model directory the chat template, and a generation config that ends with a turn.

        vLLM and transformers stop at any of its ``eos_token_id``.
        """
        source = self.tokenizer.directory
        for path in tokenizer_files(source):
            if path.name == GENERATION_CONFIG and (directory / path.name).is_file():
                continue
            (directory / path.name).unlink(missing_ok=True)  # perhaps another name of a kept file
            shutil.copyfile(path, directory / path.name)
        settings = read_json(directory / GENERATION_CONFIG)
        text = TextTokenizer.open(source)
        endings = {*end_ids(directory, text.eos_id), self.end_of_turn}
        settings |= {"bos_token_id": text.bos_id, "eos_token_id": sorted(endings)}
        write_json(directory / GENERATION_CONFIG, settings)


def conversations_report(directory: Path, length: int) -> Report:
    """Return how many conversations of a directory there are, and what of them is learned."""
    files, results = TokenFiles.open(directory), Manifest.load(directory).results
    if files.loss is None:
        raise DataError(
            f"{directory}: holds texts, not conversations; make it with `bielik tokenize` from "
            'JSON lines with "messages", or train on texts with `bielik train`'
        )
    long = np.flatnonzero(files.lengths > length + 1)  # a row's last label lies behind it
    starts = np.cumsum(files.lengths, dtype=np.int64) - files.lengths
    silent = sum(not files.loss[s + 1 : s + length + 1].any() for s in starts[long])
    return {
        "examples": len(files.lengths),
        "tokens": len(files.tokens),
        "loss_tokens": results.get("loss_tokens", 0),
        "round_trips": results.get("round_trips", 0),
        "looked_at": results.get("looked_at", 0),
        "truncated": len(long),
        "left_out": int(silent),
    }


def pairs_report(directory: Path, length: int) -> Report:
    """Return how many pairs of a directory there are, and how many are longer than a sequence."""
    files, results = TokenFiles.open(directory), Manifest.load(directory).results
    both = files.lengths.reshape(-1, 2).sum(axis=1)
    return {
        "examples": len(both),
        "tokens": len(files.tokens),
        "loss_tokens": results.get("loss_tokens", 0),
        "round_trips": results.get("round_trips", 0),
        "looked_at": results.get("looked_at", 0),
        "truncated": 0,
        "left_out": int((both > length).sum()),
    }


def _check_fit(directory: Path, report: Report, config: AlignConfig) -> None:
    if report["left_out"] and config.unfit == "stop":
        raise DataError(
            f"{directory}: {report['left_out']:,} of {report['examples']:,} examples have no place "
            f"in a sequence_length of {config.sequence_length:,}; choose a larger one, or leave "
            "them out with unfit=skip"
        )


def _check_tokens(name: str, directory: Path, tokenizer: ChatTokenizer) -> None:
    """Raise `DataError` unless tokens were made with this tokenizer and its template."""
    made = Manifest.load(directory).inputs
    here = {
        "tokenizer": TextTokenizer.open(tokenizer.directory).fingerprint,
        "chat_template": tokenizer.template_fingerprint,
    }
    for what, fingerprint in here.items():
        if made.get(what, fingerprint) != fingerprint:
            raise DataError(
                f"{name} ({directory}): made with another {what.replace('_', ' ')} than that of "
                f"{tokenizer.directory}; tokenize it with that directory"
            )


def _check_vocabulary(model: Path, tokenizer: Path) -> None:
    size, known = TextTokenizer.open(tokenizer).vocab_size, Checkpoint.open(model).arch.vocab_size
    if size > known:
        raise CheckpointError(
            f"{tokenizer}: knows {size:,} tokens, but {model} has {known:,} embeddings; use the "
            "model's own tokenizer, with a chat template that needs no more tokens"
        )


def _end_of_turn(directory: Path) -> int:
    """Return the token that most documents' last learned token is."""
    endings = Counter(
        ids[int(np.flatnonzero(loss)[-1])] for ids, loss in _first_documents(directory)
    )
    return endings.most_common(1)[0][0]


def _check_ending(ending: int, tokenizer: ChatTokenizer, model: Path) -> None:
    """Refuse an ordinary token: an assistant that learned it as its end would stop at every one."""
    known = tokenizer.tokenizer
    marks = {*known.all_special_ids, *known.added_tokens_decoder, *end_ids(model, None)}
    if ending not in marks:
        raise CheckpointError(
            f"{tokenizer.directory}: its chat template leaves the end of the assistant's turn out "
            f"of what is learned, which ends with {known.convert_ids_to_tokens(ending)!r}; put the "
            "token that ends the turn inside {% generation %}, and tokenize again"
        )


def _first_documents(directory: Path) -> list[tuple[list[int], Any]]:
    files, start, found = TokenFiles.open(directory), 0, []
    assert files.loss is not None, "conversations and pairs have it"
    for length in files.lengths[:_LOOKED_AT].tolist():
        here = slice(start, start + length)
        found.append((files.tokens[here].tolist(), np.array(files.loss[here])))
        start += length
    return found


def _in_words(name: str, report: Report) -> str:
    examples, tokens = max(report["examples"], 1), max(report["tokens"], 1)
    return (
        f"{name}: {report['examples']:,} examples, {report['tokens']:,} tokens, "
        f"{report['loss_tokens'] / tokens:.1%} of them carry loss; "
        f"{report['truncated'] / examples:.2%} lose their ends, {report['left_out']:,} are left "
        f"out; {report['round_trips']} of {report['looked_at']} come back from their tokens"
    )
