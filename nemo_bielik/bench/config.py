"""The settings of ``bielik bench``."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.cards import card_or_device
from nemo_bielik.planner.memory import PRECISIONS


@dataclass(frozen=True)
class Case:
    """One load: so many requests at a time, of so many tokens in and out."""

    concurrency: int
    prompt_tokens: int
    output_tokens: int

    @property
    def name(self) -> str:
        """Its name in files, such as ``c8-p128-o64``."""
        return f"c{self.concurrency}-p{self.prompt_tokens}-o{self.output_tokens}"

    @property
    def context(self) -> int:
        """Tokens that stand before a token of the output, on average."""
        return self.prompt_tokens + self.output_tokens // 2


@dataclass(kw_only=True)
class BenchConfig:
    """How fast a served model answers: latencies and throughput at an OpenAI-compatible endpoint.

    With a student, teacher and student are measured in turn and their ratios given. Either --serve
    starts the servers, one at a time, or --url (and --student-url) says where they run.
    """

    output: Path = field(metadata={"help": "directory to make"})
    model: str = field(
        metadata={"help": "model directory; with --url also a preset, or only the served name"}
    )
    student: str | None = field(
        default=None, metadata={"help": "a second model; the first is then its teacher"}
    )
    serve: Literal["auto", "vllm", "transformers"] | None = field(
        default=None,
        metadata={"help": "start a server: auto is vLLM with a GPU, transformers else"},
    )
    url: str | None = field(
        default=None, metadata={"help": "API that serves the model, such as http://host:8000/v1"}
    )
    student_url: str | None = field(
        default=None, metadata={"help": "API that serves the student, if another"}
    )
    name: str | None = field(
        default=None, metadata={"help": "what the API calls the model, if not --model"}
    )
    student_name: str | None = field(
        default=None, metadata={"help": "what the API calls the student, if not --student"}
    )
    tokenizer: Path | None = field(
        default=None, metadata={"help": "tokenizer directory, if --model is not one"}
    )
    concurrency: tuple[int, ...] = field(default=(1,), metadata={"help": "requests at a time"})
    prompt_tokens: tuple[int, ...] = field(default=(128,), metadata={"help": "tokens of a prompt"})
    output_tokens: tuple[int, ...] = field(default=(128,), metadata={"help": "tokens of an answer"})
    requests: int = field(
        default=16, metadata={"help": "requests of a round; at least one for each at a time"}
    )
    warmup: int = field(
        default=2, metadata={"help": "requests for each at a time before a round, not counted"}
    )
    repeats: int = field(default=3, metadata={"help": "rounds of every case and model"})
    ramp_seconds: float = field(
        default=0.25, metadata={"help": "over which a round's first requests are spread"}
    )
    timeout_seconds: float = field(default=600.0, metadata={"help": "for one answer"})
    ready_seconds: float = field(default=900.0, metadata={"help": "for a server to start"})
    endpoint: Literal["completions", "chat"] = field(
        default="completions", metadata={"help": "which API to ask; chat needs a chat template"}
    )
    extra_body: str | None = field(
        default=None,
        metadata={
            "help": "JSON object of further fields of every request; by default what makes the "
            "server answer at full length ({'ignore_eos': true} with --url)"
        },
    )
    api_key_variable: str = field(
        default="OPENAI_API_KEY", metadata={"help": "environment variable with the API's key"}
    )
    server_program: Path | None = field(
        default=None, metadata={"help": "the program to serve with, if not on the PATH"}
    )
    server_arguments: tuple[str, ...] = field(
        default=(), metadata={"help": "further words for it: server_arguments=--dtype,bfloat16"}
    )
    precision: str | None = field(
        default=None, metadata={"help": "of the weights as served, if not the checkpoint's"}
    )
    device: str | None = field(
        default=None,
        metadata={"help": "GPU of the roofline and its rated power: H200, RTX-4090, …"},
    )
    watts: float | None = field(
        default=None, metadata={"help": "rated power, where none can be measured"}
    )
    grid_intensity: float | None = field(
        default=None, metadata={"help": "grams of CO₂ equivalent a kWh of your grid costs"}
    )
    seed: int = field(default=0, metadata={"help": "of the prompts"})
    json: bool = field(default=False, metadata={"help": "print bench.json instead of a table"})

    def __post_init__(self) -> None:
        for name in ("requests", "repeats"):
            _require(name, getattr(self, name), at_least=1)
        _require("warmup", self.warmup, at_least=0)
        for name in ("concurrency", "prompt_tokens", "output_tokens"):
            for value in getattr(self, name) or (0,):
                _require(name, value, at_least=1)
        for name in ("timeout_seconds", "ready_seconds", "watts", "grid_intensity"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} is {value}; it must be a number above 0")
        if not (math.isfinite(self.ramp_seconds) and self.ramp_seconds >= 0):
            raise ConfigError(f"ramp_seconds is {self.ramp_seconds}; it must be 0 or more")
        self._check_places()
        if self.precision is not None and self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; known are {', '.join(PRECISIONS)}")
        if self.device is not None:
            card_or_device(self.device)
        self.extra_fields()

    def _check_places(self) -> None:
        if (self.serve is None) == (self.url is None):
            raise ConfigError(
                "give either --serve (to start a server) or --url (where one runs)"
                + ("" if self.serve is None else ", not both")
            )
        if self.student is None and (self.student_url or self.student_name):
            raise ConfigError("student_url and student_name need --student")
        if self.serve is not None and self.student_url:
            raise ConfigError("student_url goes with --url; --serve starts the student's server")
        if self.serve is None and (self.server_program or self.server_arguments):
            raise ConfigError("server_program and server_arguments go with --serve")

    def extra_fields(self) -> dict[str, Any] | None:
        """Return `extra_body` as an object; None if it is not given."""
        if self.extra_body is None:
            return None
        try:
            value = json.loads(self.extra_body)
        except ValueError as error:
            raise ConfigError(f"extra_body is not JSON ({error}): {self.extra_body!r}") from None
        if not isinstance(value, dict):
            raise ConfigError(f"extra_body must be a JSON object, not {self.extra_body!r}")
        return value

    def cases(self) -> list[Case]:
        """Return every combination of concurrency and lengths."""
        return [
            Case(concurrency, prompt, output)
            for prompt in self.prompt_tokens
            for output in self.output_tokens
            for concurrency in self.concurrency
        ]


def _require(name: str, value: int, at_least: int) -> None:
    if value < at_least:
        raise ConfigError(f"{name} is {value}; it must be at least {at_least}")
