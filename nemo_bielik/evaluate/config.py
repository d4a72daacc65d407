"""The settings of an evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate.suites.catalog import find_suites


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
        default=None,
        metadata={"help": "take only the first N items of every task, or of each of its parts"},
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
    bfcl: Path | None = field(
        default=None, metadata={"help": "project root in which `bfcl evaluate` scored this model"}
    )
    euroeval: Path | None = field(
        default=None, metadata={"help": "the euroeval_benchmark_results.jsonl of this model"}
    )
    bfcl_model: str = field(
        default="speakleash/Bielik-11B-v2.3-Instruct",
        metadata={"help": "the name in `bfcl models` that decides the prompts of --suites bfcl"},
    )
    euroeval_languages: list[str] = field(
        default_factory=lambda: ["pl"], metadata={"help": "languages of --suites euroeval"}
    )
    external_model: str | None = field(
        default=None, metadata={"help": "the model's name there, if they hold several"}
    )
    scores: list[Path] = field(
        default_factory=list,
        metadata={"help": "scores of this model on a suite that was run elsewhere, such as CPTUB"},
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
        external = self.bfcl or self.euroeval or self.scores
        if not self.asks_the_model and not external:
            raise ConfigError(
                "nothing to evaluate: give suites, texts, minimal_pairs or facts, or what was run "
                "elsewhere as bfcl, euroeval or scores"
            )
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
    def asks_the_model(self) -> bool:
        """Whether anything is asked; results of suites that were run elsewhere are only read."""
        return bool(self.suites) or self._needs_weights

    @property
    def _needs_weights(self) -> bool:
        return bool(self.texts or self.minimal_pairs or self.facts)
