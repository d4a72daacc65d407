"""The GRPO stage: a policy learns from the rewards of its own answers.

For every prompt a group of answers is drawn; an answer's advantage is how much better than its
group it is. The loop is TRL's (`grpo_run.py`); here are the settings, their checks and the recipe.
DeepSeekMath (Shao et al. 2024) gives the method, Liu et al. 2025 its Dr. GRPO variant.
"""

import contextlib
import importlib.util
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik.align.measure import chat_fingerprints, skipped_lines, task_reader
from nemo_bielik.align.rewards.grading import Grader, GradingConfig
from nemo_bielik.align.tasks import TaskFile, TaskReader
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices, require
from nemo_bielik.data.text import text_fingerprint
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.manifest import Manifest
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.stages import describe, is_done
from nemo_bielik.training import OptimConfig

_POSITIVE = (
    *("iters", "prompts_per_step", "micro_batch_size", "updates_per_batch", "max_answer_tokens"),
    "seed",
)


def _optim() -> OptimConfig:
    return OptimConfig(max_lr=1e-6, min_lr=1e-7, weight_decay=0.0, beta2=0.999)


@dataclass(kw_only=True)
class GrpoSettings:
    """How to learn from rewards; `GrpoConfig` adds which model, on which tasks."""

    iters: int = field(default=100, metadata={"help": "optimizer steps"})
    prompts_per_step: int = field(default=8, metadata={"help": "prompts a batch of answers"})
    group_size: int = field(default=8, metadata={"help": "answers to each prompt"})
    micro_batch_size: int = field(default=8, metadata={"help": "answers a forward pass"})
    updates_per_batch: int = field(
        default=1, metadata={"help": "optimizer steps on the same answers; clipping needs above 1"}
    )
    max_answer_tokens: int = field(default=256, metadata={"help": "tokens of an answer at most"})
    temperature: float = field(default=1.0, metadata={"help": "of the answers"})
    top_p: float = field(default=1.0, metadata={"help": "share of the likeliest tokens to draw"})
    loss: Literal["grpo", "dr_grpo"] = field(
        default="grpo",
        metadata={"help": "dr_grpo: no division by a group's deviation nor by an answer's length"},
    )
    clip_low: float = field(default=0.2, metadata={"help": "how far below 1 the ratio counts"})
    clip_high: float = field(default=0.2, metadata={"help": "how far above 1 the ratio counts"})
    kl_beta: float = field(
        default=0.04, metadata={"help": "weight of KL(policy ‖ start); 0: no second model is held"}
    )
    generation: Literal["auto", "transformers", "vllm"] = field(
        default="auto", metadata={"help": "what writes the answers; auto: vllm where it can"}
    )
    vllm_server: str = field(
        default="",
        metadata={"help": "http://HOST:PORT of `trl vllm-serve`; empty: in this process"},
    )
    vllm_memory: float = field(
        default=0.3, metadata={"help": "share of a GPU for vLLM in this process"}
    )
    save_interval: int = field(default=0, metadata={"help": "steps between checkpoints; 0: none"})
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = field(
        default=False, metadata={"help": "compute layers again in the backward pass"}
    )
    shard: bool = field(
        default=False,
        metadata={"help": "split weights, gradients and optimizer over the processes (FSDP)"},
    )
    seed: int = field(default=1, metadata={"help": "order of the prompts, and what is drawn"})
    optim: OptimConfig = field(default_factory=_optim)
    grading: GradingConfig = field(default_factory=GradingConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)

    def __post_init__(self) -> None:
        check_choices(self)
        for name in _POSITIVE:
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.group_size >= 2, "group_size", self.group_size, "at least 2")
        require(self.save_interval >= 0, "save_interval", self.save_interval, "0 (never) or more")
        require(
            0 < self.temperature < math.inf, "temperature", self.temperature, "finite and above 0"
        )
        for name in ("top_p", "vllm_memory"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        require(0 <= self.clip_low < 1, "clip_low", self.clip_low, "in [0, 1)")
        for name in ("clip_high", "kl_beta"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "finite and 0 or more")
        self._check_sizes()
        if self.vllm_server and not self.vllm_server.startswith(("http://", "https://")):
            raise ConfigError(f"vllm_server is {self.vllm_server!r}; it must be http://HOST:PORT")

    def _check_sizes(self) -> None:
        if self.parallel != ParallelConfig(data=self.parallel.data):
            raise ConfigError(
                "parallel: this stage is split by data only; set parallel.data, and shard=true "
                "where the model is too large for one GPU"
            )
        if self.shard and self.parallel.data == 1:
            raise ConfigError("shard=true needs parallel.data above 1; set both or neither")
        share = self.micro_batch_size * self.parallel.data
        if self.answers_per_step % share:
            raise ConfigError(
                f"prompts_per_step × group_size is {self.answers_per_step}; it must be a multiple "
                f"of micro_batch_size × parallel.data = {share}"
            )
        if self.save_interval % self.updates_per_batch:
            raise ConfigError(
                f"save_interval is {self.save_interval}; it must be a multiple of "
                f"updates_per_batch ({self.updates_per_batch}), so that no answers are lost"
            )
        if self.optim.warmup_iters >= self.iters:
            raise ConfigError(
                f"optim.warmup_iters is {self.optim.warmup_iters}; it must be below iters "
                f"({self.iters})"
            )

    @property
    def answers_per_step(self) -> int:
        """Answers that an optimizer step learns from."""
        return self.prompts_per_step * self.group_size


@dataclass(kw_only=True)
class GrpoConfig(GrpoSettings):
    """Reinforcement learning on tasks whose answers can be verified (GRPO)."""

    model: Path = field(metadata={"help": "model directory whose tokenizer has a chat template"})
    tasks: list[Path] = field(metadata={"help": 'JSON lines of "prompt", "answer", "reward", …'})
    output: Path = field(metadata={"help": "model directory to make"})
    held_out: list[Path] = field(
        default_factory=list, metadata={"help": "tasks to measure on, before and after"}
    )
    malformed: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "a task that cannot be used: stop, or skip and count it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.tasks:
            raise ConfigError("tasks is empty; give at least one file")


@dataclass(frozen=True)
class GrpoInputs:
    """The opened inputs of a run and its recipe."""

    config: GrpoConfig
    checkpoint: Checkpoint
    reader: TaskReader
    manifest: Manifest

    @classmethod
    def open(cls, config: GrpoConfig) -> "GrpoInputs":
        """Check what a run starts from; raise `BielikError` if it does not serve."""
        checkpoint = Checkpoint.open(config.model)
        reader = task_reader(checkpoint, config.max_answer_tokens, config.malformed, config.grading)
        inputs = {str(path): text_fingerprint(path) for path in [*config.tasks, *config.held_out]}
        inputs |= chat_fingerprints(checkpoint, reader.tokenizer)
        return cls(config, checkpoint, reader, describe("grpo", config, inputs, config.seed))


@contextlib.contextmanager
def tried_tasks(inputs: GrpoInputs) -> Iterator[tuple[TaskFile, TaskFile, Grader]]:
    """Yield the tasks to train on and those held out, all tried on their own answers, and a grader.

    Raises `DataError` for tasks that cannot be used, and for too few.
    """
    config, reader = inputs.config, inputs.reader
    read = reader.read(config.tasks)
    held_out = reader.read(config.held_out) if config.held_out else TaskFile()
    with Grader(config.grading, [*read.rewards, *held_out.rewards]) as grader:
        reader.try_own_answers(read, config.tasks, grader)
        if config.held_out:
            reader.try_own_answers(held_out, config.held_out, grader)
        if len(read.tasks) < config.prompts_per_step:
            raise DataError(
                f"{', '.join(map(str, config.tasks))}: {len(read.tasks)} tasks for "
                f"prompts_per_step {config.prompts_per_step}; give more tasks or fewer prompts a "
                "step"
            )
        yield read, held_out, grader


def grpo(config: GrpoConfig) -> None:
    """Train `config.model` on the rewards of its answers and write `config.output`.

    Raises `BielikError` for bad input. Unfinished work lies in ``.OUTPUT.work``; the same command
    goes on from its last checkpoint.
    """
    inputs = GrpoInputs.open(config)
    if is_done(config.output, inputs.manifest):
        return
    if importlib.util.find_spec("trl") is None:
        raise ConfigError("grpo needs trl; run 'make env' or install nemo-bielik[align]")

    from nemo_bielik.align.grpo_run import run

    run(inputs)


def describe_run(config: GrpoConfig) -> list[str]:
    """Return the lines that ``bielik grpo --dry-run`` adds."""
    inputs = GrpoInputs.open(config)
    if is_done(config.output, inputs.manifest):
        return [f"{config.output}: already done"]
    with tried_tasks(inputs) as (read, held_out, _):
        pass  # what would stop a run stops here
    batches = math.ceil(config.iters / config.updates_per_batch)
    drawn = batches * config.prompts_per_step
    lines = [
        f"{len(read.tasks):,} tasks, judged by {', '.join(read.rewards)}",
        f"{config.iters:,} steps on {drawn:,} prompts ({drawn / len(read.tasks):.1f} rounds), "
        f"{batches * config.answers_per_step:,} answers of at most {config.max_answer_tokens} "
        "tokens",
    ]
    if config.held_out:
        lines.append(f"{len(held_out.tasks):,} held-out tasks, answered before and after")
    return lines + skipped_lines(
        {"tasks": read.skipped_counts, "held_out_tasks": held_out.skipped_counts}
    )
