"""What a quantisation reads beside the model: windows of tokens, and sentences to judge."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.text_windows import text_windows
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.evaluate.choices import (
    Choice,
    Scorer,
    accuracy,
    encode_choices,
    read_facts,
    read_minimal_pairs,
    score_choices,
)
from nemo_bielik.evaluate.stage import check_length, check_vocabulary
from nemo_bielik.quantize.config import QuantizeConfig

#: Names of the scores, as an evaluation has them.
PAIRS, FACTS = "minimal_pairs_accuracy", "fact_accuracy"


@dataclass(frozen=True)
class Inputs:
    """Windows of token ids and choices by the name of their score; empty where none are given."""

    calibration: list[list[int]]
    held_out: list[list[int]]
    choices: dict[str, list[Choice]] = field(default_factory=dict)
    tokenizer: TextTokenizer | None = None
    longest: int = 0

    @classmethod
    def read(cls, config: QuantizeConfig, source: Checkpoint) -> "Inputs":
        """Return all of it before anything is written.

        Raises `DataError` for texts that are too short, sentences that are too long, and what is
        no minimal pair or fact; `ConfigError` for windows longer than the model's positions.
        """
        if not (config.texts or config.measures):
            return cls([], [])
        check_length(config.sequence_length, source)
        tokenizer = TextTokenizer.open(config.model)
        check_vocabulary(source, tokenizer)
        choices = {}
        if config.minimal_pairs:
            choices[PAIRS] = read_minimal_pairs(config.minimal_pairs)
        if config.facts:
            choices[FACTS] = read_facts(config.facts)
        for one in choices.values():
            encode_choices(tokenizer, one, config.sequence_length)
        return cls(
            _windows(config, config.texts, config.calibration_tokens),
            _windows(config, config.held_out, config.measured_tokens),
            choices,
            tokenizer,
            config.sequence_length,
        )

    def scores(self, model: Scorer) -> dict[str, float]:
        """Return the share of right choices of `model` by the name of the score."""
        if self.tokenizer is None:
            return {}
        return {
            name: accuracy(score_choices(model, self.tokenizer, own, self.longest))
            for name, own in self.choices.items()
        }


def _windows(config: QuantizeConfig, texts: list[Path], tokens: int) -> list[list[int]]:
    return text_windows(config.model, texts, config.sequence_length, tokens) if texts else []
