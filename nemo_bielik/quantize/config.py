"""The settings of the quantising stage."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik.arch import ModelArch
from nemo_bielik.checks import check_choices
from nemo_bielik.errors import ConfigError
from nemo_bielik.quantize.formats import (
    REPORT_FORMATS,
    AnyFormat,
    QuantizedFormat,
    find_formats,
)
from nemo_bielik.quantize.modelopt_formats import ServerFormat
from nemo_bielik.quantize.modelopt_layers import KeptLayers, PrecisionConfig


@dataclass(kw_only=True)
class QuantizeConfig(KeptLayers):
    """Formats of fewer bits a weight, for llama.cpp and for servers; a table of what each costs."""

    model: Path = field(metadata={"help": "model directory with its tokenizer", "positional": True})
    output: Path = field(metadata={"help": "directory to make"})
    formats: list[str] = field(
        default_factory=list, metadata={"help": "such as Q8_0, Q4_K_M, fp8, nvfp4, int4-awq"}
    )
    all: bool = field(
        default=False, metadata={"help": f"the report's row: {', '.join(REPORT_FORMATS)}"}
    )
    texts: list[Path] = field(
        default_factory=list,
        metadata={"help": "calibration texts: the importance matrix, the scales of servers"},
    )
    calibration_tokens: int = field(default=16384, metadata={"help": "to take of them"})
    held_out: list[Path] = field(
        default_factory=list, metadata={"help": "texts to measure what each format costs on"}
    )
    measured_tokens: int = field(default=8192, metadata={"help": "to take of them"})
    minimal_pairs: Path | None = field(
        default=None, metadata={"help": "minimal pairs to score every format on"}
    )
    facts: Path | None = field(default=None, metadata={"help": "facts to score every format on"})
    sequence_length: int = field(default=512, metadata={"help": "tokens of a window of text"})
    max_loss: float | None = field(
        default=None,
        metadata={"help": "refuse a format that raises perplexity by more per cent than this"},
    )
    context: int = field(
        default=8192,
        metadata={"help": "tokens for which the table says which cards fit, up to the model's"},
    )
    kv_cache: Literal["none", "fp8"] = field(
        default="none", metadata={"help": "fp8: servers' keys and values get calibrated scales too"}
    )
    batch_size: int = field(
        default=1, metadata={"help": "windows a forward pass of a server format's calibration"}
    )
    threads: int = field(default=0, metadata={"help": "of llama.cpp; 0: all cores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        self._check_counts()
        if self.max_loss is not None and not (0 <= self.max_loss < math.inf and self.held_out):
            raise ConfigError(
                f"max_loss is {self.max_loss}; it must be a number of 0 or more, and needs "
                "held_out to measure the loss on"
            )
        if self.max_loss is not None and self.kv_cache != "none":
            raise ConfigError(
                "max_loss judges weights and activations, not keys and values, which the measured "
                f"model does not round; leave it out, or kv_cache={self.kv_cache}"
            )
        for wanted in self.gguf_formats:
            if wanted.needs_importance and not self.texts:
                raise ConfigError(f"{wanted.name} needs an importance matrix; give texts")
        names = ", ".join(one.name for one in self.server_formats)
        if names and not self.texts:
            raise ConfigError(f"{names}: scales come from calibration text; give texts")
        if not names and (
            self.keep or self.keep_first or self.keep_last or self.kv_cache != "none"
        ):
            raise ConfigError(
                "keep, keep_first, keep_last and kv_cache are for servers' formats; ask for one, "
                "such as fp8, or leave them out"
            )

    def _check_counts(self) -> None:
        for name in ("calibration_tokens", "measured_tokens", "sequence_length", "context"):
            if getattr(self, name) < 2:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 2")
        for name in ("calibration_tokens", "measured_tokens"):
            if getattr(self, name) < self.sequence_length:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; it must be at least one window of "
                    f"sequence_length, {self.sequence_length}"
                )
        if self.batch_size < 1:
            raise ConfigError(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.threads < 0:
            raise ConfigError(f"threads is {self.threads}; it must be 0 or more")

    @property
    def wanted(self) -> list[AnyFormat]:
        """The formats to make; raises `ConfigError` for none or an unknown one."""
        return find_formats([*self.formats, *(REPORT_FORMATS if self.all else ())])

    @property
    def gguf_formats(self) -> list[QuantizedFormat]:
        """Those for llama.cpp."""
        return [one for one in self.wanted if isinstance(one, QuantizedFormat)]

    @property
    def server_formats(self) -> list[ServerFormat]:
        """Those for servers."""
        return [one for one in self.wanted if isinstance(one, ServerFormat)]

    @property
    def measures(self) -> bool:
        """Whether models are run after they are made."""
        return bool(self.held_out or self.minimal_pairs or self.facts)

    def context_of(self, arch: ModelArch) -> int:
        """Return the tokens for which cards are counted: no more than the model's positions."""
        return min(self.context, arch.max_position_embeddings)

    def precision(self, kind: ServerFormat) -> PrecisionConfig:
        """Return a server's format with the layers that are kept out of it."""
        return PrecisionConfig(
            format=kind.name,
            keep=self.keep,
            keep_first=self.keep_first,
            keep_last=self.keep_last,
        )

    def path(self, directory: Path, kind: AnyFormat) -> Path:
        """Return where a format lies within a directory: one file, or a server's directory."""
        ending = ".gguf" if isinstance(kind, QuantizedFormat) else ""
        return directory / f"{self.model.resolve().name}-{kind.name}{ending}"
