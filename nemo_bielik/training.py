"""Settings of every training run, and the stage that trains on next-token loss.

Distillation and later fine-tuning extend `TrainConfig`; only the objective differs. The laptop and
a cluster use the same settings: a recipe changes numbers, never code.
"""

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices, require
from nemo_bielik.data.sources import Packing, check_blend, data_fingerprints
from nemo_bielik.errors import ConfigError
from nemo_bielik.layouts import without_speed
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig, check_layout
from nemo_bielik.phases import Phase, as_paths, shapes, tokens_after
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig, check_quantization
from nemo_bielik.stages import describe, is_done

#: fp64 is for checks of forward passes; training knows the other two.
Precision = Literal["fp32", "bf16", "fp64"]


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW with a warm-up and a cosine (or constant) learning rate.

    The report names AdamW and the cosine but leaves its rates blank: 1e-4 → 1e-5 are ours.
    """

    max_lr: float = field(default=1e-4, metadata={"help": "peak learning rate"})
    min_lr: float = field(default=1e-5, metadata={"help": "final learning rate"})
    decay: Literal["cosine", "constant"] = "cosine"
    warmup_iters: int = field(default=10, metadata={"help": "steps of linear warm-up"})
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_grad: float = field(default=1.0, metadata={"help": "gradient norm is cut to this"})

    def __post_init__(self) -> None:
        check_choices(self)
        require(0 < self.max_lr < math.inf, "optim.max_lr", self.max_lr, "finite and above 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            require(0 <= value < 1, f"optim.{name}", value, "at least 0 and below 1")
        require(
            0 <= self.min_lr <= self.max_lr, "optim.min_lr", self.min_lr, "between 0 and max_lr"
        )
        require(self.warmup_iters >= 0, "optim.warmup_iters", self.warmup_iters, "0 or more")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_grad >= 0, "optim.clip_grad", self.clip_grad, "0 (off) or more")


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters on the projections of every layer; everything else is frozen."""

    rank: int = field(default=0, metadata={"help": "rank of the adapters; 0: train all weights"})
    alpha: float = field(default=16.0, metadata={"help": "they are scaled by alpha / rank"})

    def __post_init__(self) -> None:
        require(self.rank >= 0, "lora.rank", self.rank, "0 (off) or more")
        require(0 < self.alpha < math.inf, "lora.alpha", self.alpha, "finite and above 0")


@dataclass(kw_only=True)
class StabilityConfig:
    """When a step's loss or gradients betray that it would do harm, and what is done then.

    A loss or gradient norm that is no number always counts. A deviation is 1.4826 times the median
    distance from the median, the standard deviation where losses are normally distributed.
    """

    policy: Literal["stop", "skip", "rollback"] = field(
        default="stop",
        metadata={
            "help": "stop the run; skip the step's update; or roll back to the last checkpoint and "
            "skip the batches from there up to the harmful one"
        },
    )
    loss_spike: float = field(
        default=0.0,
        metadata={
            "help": "deviations above the median of recent losses that a loss may be; 0: any"
        },
    )
    window: int = field(default=50, metadata={"help": "recent steps that a spike is judged by"})
    grad_norm_limit: float = field(
        default=0.0, metadata={"help": "largest gradient norm before clipping; 0: any"}
    )
    max_incidents: int = field(
        default=10, metadata={"help": "harmful steps after which the run stops all the same"}
    )

    def __post_init__(self) -> None:
        check_choices(self)
        for name in ("loss_spike", "grad_norm_limit"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"stability.{name}", value, "finite and 0 (off) or more")
        require(self.window >= 10, "stability.window", self.window, "at least 10")
        require(
            self.max_incidents >= 1, "stability.max_incidents", self.max_incidents, "at least 1"
        )


@dataclass(kw_only=True)
class LoggingConfig:
    """What is seen of a run; nothing here changes what it makes."""

    wandb_project: str = field(
        default="", metadata={"help": "project of Weights & Biases; empty: it is not used"}
    )
    wandb_name: str = field(default="", metadata={"help": "name there; empty: the output's"})
    peak_tflops: float = field(
        default=0.0,
        metadata={"help": "TFLOP/s that a device could reach; 0: from a table, for known GPUs"},
    )
    token_classes: bool = field(
        default=True, metadata={"help": "split the KL by classes of tokens in validations"}
    )
    profile_steps: list[int] = field(
        default_factory=list,
        metadata={"help": "first and last step that nsys records, if the run is under it"},
    )

    def __post_init__(self) -> None:
        require(
            0 <= self.peak_tflops < math.inf,
            "logging.peak_tflops",
            self.peak_tflops,
            "finite and 0 (unknown) or more",
        )
        steps = self.profile_steps
        if steps and (len(steps) != 2 or not 1 <= steps[0] <= steps[1]):
            raise ConfigError(
                f"logging.profile_steps is {steps}; give the first and the last step, e.g. [10,12]"
            )

    def check(self) -> None:
        """Raise `ConfigError` if what is asked for is not installed."""
        if self.wandb_project and importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                "logging.wandb_project needs the package wandb, which is not installed; "
                "install it or leave logging.wandb_project empty"
            )


@dataclass(kw_only=True)
class TrainSettings:
    """How long and how fast to train, on how many processes; `TrainConfig` adds what on what."""

    iters: int = field(default=1000, metadata={"help": "optimizer steps (phases: their sum)"})
    sequence_length: int = field(default=4096, metadata={"help": "tokens a sequence"})
    global_batch_size: int = field(default=32, metadata={"help": "sequences a step"})
    micro_batch_size: int = field(default=1, metadata={"help": "sequences a forward pass"})
    eval_interval: int = field(default=0, metadata={"help": "steps between validations; 0: none"})
    eval_iters: int = field(default=8, metadata={"help": "global batches a validation"})
    save_interval: int = field(default=0, metadata={"help": "steps between checkpoints; 0: none"})
    async_save: bool = field(
        default=True, metadata={"help": "train on while a checkpoint is written"}
    )
    stop_after: int | None = field(
        default=None,
        metadata={
            "help": "pause after this step, the schedule being that of the whole run; 0: only "
            "validate what it starts from; the same command with another value goes on"
        },
    )
    keep: Literal["last", "best"] = field(
        default="last", metadata={"help": "which weights to export; best: lowest validation loss"}
    )
    keep_zeros: bool = field(
        default=False, metadata={"help": "weights that are zero at the start stay zero"}
    )
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = field(
        default=False,
        metadata={"help": "layers keep their input alone and compute again in the backward pass"},
    )
    seed: int = field(default=1, metadata={"help": "order of the training text"})
    packing: Packing = field(
        default="auto",
        metadata={
            "help": "cut: documents end to end, cut at the ends of sequences; whole: none is cut, "
            "sequences are padded; auto: whole for conversations, cut for text"
        },
    )
    phases: list[Phase] = field(
        default_factory=list,
        metadata={
            "help": "stretches of steps with a shape or data of their own, as JSON: "
            '[{"iters": 100, "sequence_length": 512}, …]; further keys are global_batch_size, '
            "micro_batch_size, train_data, train_weights; what is left out is the run's"
        },
    )
    optim: OptimConfig = field(default_factory=OptimConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    quantization: FakeQuantizationConfig = field(default_factory=FakeQuantizationConfig)
    stability: StabilityConfig = field(default_factory=StabilityConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        if self.phases:
            self._check_phases()
        else:
            self.parallel.check_length(self.sequence_length)
        for name in ("iters", "sequence_length", "global_batch_size", "micro_batch_size", "seed"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("eval_interval", "save_interval"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 (never) or more")
        require(self.eval_iters >= 1, "eval_iters", self.eval_iters, "at least 1")
        share = self.micro_batch_size * self.parallel.data
        if self.global_batch_size % share:
            raise ConfigError(
                f"global_batch_size is {self.global_batch_size}; it must be a multiple of "
                f"micro_batch_size × parallel.data = {share}"
            )
        if self.precision == "bf16" and self.parallel.pipeline > 1 and self.micro_batch_size > 1:
            raise ConfigError(
                f"micro_batch_size is {self.micro_batch_size}; in bf16 with parallel.pipeline "
                "above 1 it must be 1, since Transformer Engine packs a micro-batch into one row"
            )
        if self.keep == "best" and not self.eval_interval:
            raise ConfigError("keep=best needs an eval_interval above 0")
        if self.stability.policy == "rollback" and not self.save_interval:
            raise ConfigError("stability.policy=rollback needs a save_interval above 0")
        if self.optim.warmup_iters >= self.iters:
            raise ConfigError(
                f"optim.warmup_iters is {self.optim.warmup_iters}; it must be below iters "
                f"({self.iters})"
            )
        self._check_stop()
        if self.lora.rank % self.parallel.tensor:
            raise ConfigError(
                f"lora.rank is {self.lora.rank}; it must be a multiple of parallel.tensor "
                f"({self.parallel.tensor})"
            )
        if self.lora.rank and self.keep_zeros:
            raise ConfigError(
                "lora.rank and keep_zeros exclude each other: merged adapters fill every zero; "
                "train all weights (lora.rank=0) or give the zeros up"
            )

        if self.lora.rank and self.quantization.format:
            raise ConfigError(
                "lora.rank and quantization.format exclude each other: adapters are added to a "
                "weight that stays unrounded; train all weights (lora.rank=0) or none rounded"
            )
        if self.quantization.format:
            self.parallel.require_whole_sequences(f"quantization.format={self.quantization.format}")

    def _check_stop(self) -> None:
        if self.stop_after is None:
            return
        require(self.stop_after >= 0, "stop_after", self.stop_after, "0 or more")
        if not (self.save_interval if self.stop_after else self.eval_interval):
            needed = "a save_interval" if self.stop_after else "an eval_interval"
            raise ConfigError(f"stop_after={self.stop_after} needs {needed} above 0")

    def _check_phases(self) -> None:
        self.iters = sum(phase.iters for phase in self.phases)
        lengths = {shape.sequence_length for _, shape in shapes(self)}
        if not self.save_interval:
            raise ConfigError(
                "phases need a save_interval above 0: each goes on from the checkpoint that the "
                "one before ended with"
            )
        if self.keep == "best" and len(lengths) > 1:
            raise ConfigError(
                "keep=best compares validations, and phases of different sequence_length have "
                "different ones; use keep=last"
            )

    @property
    def tokens(self) -> int:
        """Tokens that the run trains on."""
        return tokens_after(self, self.iters)

    @property
    def longest_sequence(self) -> int:
        """The largest sequence length of all phases."""
        return max(shape.sequence_length for _, shape in shapes(self))

    def fields(self) -> dict[str, Any]:
        """Return the settings by name, to build a `TrainConfig` with."""
        return {field.name: getattr(self, field.name) for field in fields(TrainSettings)}


@dataclass(kw_only=True)
class TrainConfig(TrainSettings):
    """One training run from a Hugging Face directory to another."""

    model: Path = field(metadata={"help": "model directory to start from"})
    train_data: list[Path] = field(
        metadata={"help": "tokens made by `bielik tokenize`; several are blended"}
    )
    output: Path = field(metadata={"help": "model directory to make"})
    validation_data: Path | None = field(default=None, metadata={"help": "held-out tokens"})
    train_weights: list[float] = field(
        default_factory=list,
        metadata={"help": "share of the sequences from each of train_data (default: its tokens)"},
    )

    def __post_init__(self) -> None:
        self.train_data = as_paths(self.train_data)
        check_blend(self.train_data, self.train_weights)
        super().__post_init__()
        if self.eval_interval and self.validation_data is None:
            raise ConfigError("eval_interval needs validation_data; give both or neither")


def prepare(
    stage: str, config: TrainConfig, inputs: Mapping[str, str], pairs: bool = False
) -> Manifest:
    """Check what a run starts from and return its manifest; cheap beside loading the engine.

    `pairs` says whether it trains on preference pairs. The manifest leaves out what a run may
    change when it resumes (`layouts.py`).
    """
    config.logging.check()
    checkpoint = Checkpoint.open(config.model)
    check_layout(config.parallel, config.longest_sequence, checkpoint)
    check_quantization(config.quantization, config.parallel.tensor, checkpoint)
    found = {"model": checkpoint.fingerprint(), **data_fingerprints(config, pairs)}
    return without_speed(describe(stage, config, {**found, **inputs}, config.seed))


def train(config: TrainConfig) -> None:
    """Train `config.model` on next-token loss and export it as `config.output`."""
    manifest = prepare("train", config, {})
    if is_done(config.output, manifest):
        return

    from nemo_bielik.megatron.engine import run_training
    from nemo_bielik.megatron.objectives import NextToken

    run_training(config, NextToken(), manifest)
