"""The reward stage: a model's answers to verifiable tasks and what they earn."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nemo_bielik.align.rewards.catalog import known_rewards
from nemo_bielik.align.rewards.grading import Grader, GradingConfig
from nemo_bielik.align.tasks import TaskReader
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.checks import check_choices
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.text import text_fingerprint
from nemo_bielik.data.tokenizer import TextTokenizer
from nemo_bielik.errors import ConfigError
from nemo_bielik.files import value_sha256, write_json
from nemo_bielik.stages import describe, is_done, stage_output

RESULTS_NAME = "results.json"
ITEMS_NAME = "items.jsonl"


@dataclass(kw_only=True)
class RewardConfig:
    """A model's greedy answers to verifiable tasks, and what they earn."""

    model: Path = field(metadata={"help": "model directory"})
    tasks: list[Path] = field(metadata={"help": 'JSON lines of "prompt", "answer", "reward", …'})
    output: Path = field(metadata={"help": f"directory to make; {RESULTS_NAME}, {ITEMS_NAME}"})
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "directory whose chat template writes prompts (default: the model's)"},
    )
    max_answer_tokens: int = field(default=256, metadata={"help": "tokens of an answer at most"})
    batch_size: int = field(default=64, metadata={"help": "answers written at a time"})
    malformed: Literal["stop", "skip"] = field(
        default="stop", metadata={"help": "a task that cannot be used: stop, or skip and count it"}
    )
    grading: GradingConfig = field(default_factory=GradingConfig)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks is empty; give at least one file")
        check_choices(self)
        for name in ("max_answer_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


def task_reader(
    checkpoint: Checkpoint,
    max_answer_tokens: int,
    malformed: str,
    grading: GradingConfig,
    tokenizer: Path | None = None,
) -> TaskReader:
    """Return what reads tasks for a model; raise `BielikError` if it cannot take part in a chat.

    `tokenizer` is the directory with the chat template, if not the model's own.
    """
    positions = checkpoint.arch.max_position_embeddings
    if max_answer_tokens >= positions:
        raise ConfigError(
            f"max_answer_tokens is {max_answer_tokens}; {checkpoint.directory} knows {positions} "
            "positions, prompt and answer together"
        )
    return TaskReader(
        ChatTokenizer.open(tokenizer or checkpoint.directory),
        known_rewards(grading.own),
        positions - max_answer_tokens,
        malformed == "skip",
    )


def chat_fingerprints(checkpoint: Checkpoint, tokenizer: ChatTokenizer) -> dict[str, str]:
    """Return the identity of a model with its tokenizer, its template and the ends of answers."""
    return {
        "model": checkpoint.fingerprint(),
        "tokenizer": TextTokenizer.open(tokenizer.directory).fingerprint,
        "chat_template": tokenizer.template_fingerprint,
        "ends": value_sha256(tokenizer.ends),
    }


def measure_reward(config: RewardConfig) -> None:
    """Answer the tasks and write ``results.json`` and ``items.jsonl`` as `config.output`."""
    checkpoint = Checkpoint.open(config.model)
    reader = task_reader(
        checkpoint, config.max_answer_tokens, config.malformed, config.grading, config.tokenizer
    )
    inputs = {str(path): text_fingerprint(path) for path in config.tasks}
    manifest = describe("reward", config, inputs | chat_fingerprints(checkpoint, reader.tokenizer))
    if is_done(config.output, manifest):
        return
    read = reader.read(config.tasks)

    from nemo_bielik.align import answering

    results: dict[str, Any] = {}
    with (
        stage_output(config.output, manifest, results) as scratch,
        Grader(config.grading, read.rewards) as grader,
    ):
        reader.try_own_answers(read, config.tasks, grader)
        graded = answering.grade_tasks(
            answering.open_model(checkpoint),
            reader.tokenizer,
            read.tasks,
            grader,
            config.max_answer_tokens,
            config.batch_size,
        )
        results |= answering.summarize(graded)
        results |= {"tasks_skipped": read.skipped_counts, "rewards_skipped": dict(grader.skipped)}
        answering.write_items(scratch / ITEMS_NAME, graded)
        write_json(scratch / RESULTS_NAME, results)
    print(f"reward {answering.in_words(results)}")
    for line in skipped_lines({"tasks": read.skipped_counts, "rewards": grader.skipped}):
        print(line)


def skipped_lines(counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return how many of what were skipped and why, a line each."""
    return [
        f"{count:,} {what.replace('_', ' ')} skipped: {reason}"
        for what, reasons in counts.items()
        for reason, count in sorted(reasons.items())
    ]
