"""What a chain goes on with after distillation: fine-tuning, preferences, rewards.

Each stage is there if its data are given, and starts from the one before; `bielik pipeline` runs
them in lanes or as jobs. What `bielik align` does after the demo has data of its own (`chain.py`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nemo_bielik.align.dpo import DpoConfig, DpoSettings
from nemo_bielik.align.grpo import GrpoConfig, GrpoSettings
from nemo_bielik.align.sft import SftConfig, SftSettings
from nemo_bielik.checks import check_choices
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.data.conversations import Kind, kind_of
from nemo_bielik.data.tokenize import TokenizeConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.launch.tasks import Task
from nemo_bielik.phases import as_paths
from nemo_bielik.recipes import tiny
from nemo_bielik.runs import ALIGNED, FINE_TUNED, INSTRUCTIONS, PREFERENCES, REWARDED, Run


@dataclass(kw_only=True)
class AssistantSettings:
    """What makes an assistant of a distilled model; without conversations a chain ends before."""

    conversations: list[Path] = field(
        default_factory=list, metadata={"help": '.jsonl of "messages" to fine-tune on'}
    )
    preferences: list[Path] = field(
        default_factory=list,
        metadata={"help": '.jsonl of "prompt", "chosen", "rejected" for DPO-Positive'},
    )
    tasks: list[Path] = field(
        default_factory=list, metadata={"help": "tasks that can be verified, for GRPO"}
    )
    held_out_tasks: list[Path] = field(
        default_factory=list, metadata={"help": "tasks to measure GRPO on, before and after"}
    )
    tokenizer: Path | None = field(
        default=None,
        metadata={"help": "tokenizer with the assistant's chat template; none: the model's own"},
    )
    malformed: Literal["stop", "skip"] = field(
        default="stop",
        metadata={"help": "a line that cannot be used: stop, or skip and count it"},
    )
    sft: SftSettings = field(default_factory=tiny.fine_tuning)
    dpo: DpoSettings = field(default_factory=tiny.preferences)
    grpo: GrpoSettings = field(default_factory=tiny.rewards)

    def __post_init__(self) -> None:
        for name in ("conversations", "preferences", "tasks", "held_out_tasks"):
            setattr(self, name, as_paths(getattr(self, name)))
        check_choices(self)
        for name, before in (
            ("preferences", "conversations"),
            ("tasks", "conversations"),
            ("held_out_tasks", "tasks"),
        ):
            if getattr(self, name) and not getattr(self, before):
                raise ConfigError(
                    f"assistant.{name} needs assistant.{before}: give these too, or leave it out"
                )
        for stage in ("sft", "dpo"):
            if getattr(self, stage).eval_interval:
                raise ConfigError(
                    f"assistant.{stage}.eval_interval is {getattr(self, stage).eval_interval}; a "
                    f"chain holds no examples out: leave it at 0, or run `bielik {stage}` by itself"
                )


#: What the files of a setting must hold.
_HOLDS: dict[str, Kind] = {
    "conversations": "conversations",
    "preferences": "preference pairs",
    "tasks": "tasks",
    "held_out_tasks": "tasks",
}


class AssistantStages:
    """The settings of every stage of one run that is given data, and their jobs."""

    def __init__(self, settings: AssistantSettings, run: Run, start: Path, tokenizer: Path) -> None:
        """`start` is the distilled model; it has the `tokenizer` of its teacher."""
        self.settings, self.run, self.start = settings, run, start
        self.tokenizer = settings.tokenizer or tokenizer

    def check(self) -> list[str]:
        """Look at the inputs that are here and return what is not, a line each.

        Raises `DataError` for a file that holds something else than its setting says, and
        `CheckpointError` for a tokenizer without a chat template.
        """
        missing = []
        for name, kind in _HOLDS.items():
            for path in getattr(self.settings, name):
                if not path.is_file():
                    missing.append(f"assistant.{name}: {path}: no such file; expected JSON lines")
                elif kind_of(path) != kind:
                    raise DataError(
                        f"assistant.{name}: {path} holds {kind_of(path)}; give {kind} as JSON lines"
                    )
        if not self.settings.conversations:
            return []
        if (self.tokenizer / "tokenizer.json").is_file():
            ChatTokenizer.open(self.tokenizer)
        elif self.settings.tokenizer:
            missing.append(f"assistant.tokenizer: {self.tokenizer}: no such tokenizer directory")
        return missing

    def tokenizing(self, name: str) -> TokenizeConfig:
        """Return the settings that turn conversations or pairs into tokens."""
        pairs = name == PREFERENCES
        return TokenizeConfig(
            inputs=self.settings.preferences if pairs else self.settings.conversations,
            tokenizer=self.tokenizer,
            output=self.run.tokens(name),
            malformed=self.settings.malformed,
            context=(self.settings.dpo if pairs else self.settings.sft).sequence_length,
        )

    def sft(self) -> SftConfig:
        """Return the settings of the fine-tuning."""
        return SftConfig(
            model=self.start,
            tokenizer=self.tokenizer,
            train_data=[self.run.tokens(INSTRUCTIONS)],
            output=self.run.model(FINE_TUNED),
            **vars(self.settings.sft),
        )

    def dpo(self) -> DpoConfig:
        """Return the settings of the preferences."""
        return DpoConfig(
            model=self.run.model(FINE_TUNED),
            train_data=[self.run.tokens(PREFERENCES)],
            output=self.run.model(ALIGNED),
            **vars(self.settings.dpo),
        )

    def grpo(self) -> GrpoConfig:
        """Return the settings of the rewards."""
        return GrpoConfig(
            model=self.run.model(ALIGNED if self.settings.preferences else FINE_TUNED),
            tasks=self.settings.tasks,
            held_out=self.settings.held_out_tasks,
            output=self.run.model(REWARDED),
            malformed=self.settings.malformed,
            **vars(self.settings.grpo),
        )

    def jobs(self, tokenizer_from: str, start_from: str) -> list[Task]:
        """Return the jobs in their order; each waits for what makes what it reads.

        Args:
            tokenizer_from: job after which the tokenizer is there.
            start_from: job that makes the distilled model.
        """
        if not self.settings.conversations:
            return []
        first = f"tokenize-{INSTRUCTIONS}"
        jobs = [
            Task("tokenize", self.tokenizing(INSTRUCTIONS), first, (tokenizer_from,)),
            Task("sft", self.sft(), after=(start_from, first)),
        ]
        if self.settings.preferences:
            pairs = f"tokenize-{PREFERENCES}"
            jobs.append(Task("tokenize", self.tokenizing(PREFERENCES), pairs, (tokenizer_from,)))
            jobs.append(Task("dpo", self.dpo(), after=("sft", pairs)))
        if self.settings.tasks:
            jobs.append(Task("grpo", self.grpo(), after=(jobs[-1].label,)))
        return jobs

    def made(self) -> dict[str, str]:
        """Return the models in their order, and the job that makes each."""
        given = self.settings
        stages = {
            FINE_TUNED: ("sft", given.conversations),
            ALIGNED: ("dpo", given.preferences),
            REWARDED: ("grpo", given.tasks),
        }
        return {model: job for model, (job, data) in stages.items() if data}
