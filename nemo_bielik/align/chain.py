"""``bielik align``: from the demo's distilled model to an assistant, judged after every stage.

Conversations, preference pairs and tasks come from the demo's own world, with parts held out. Each
stage is a command of its own too; this is their order, their tiny settings and one table.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nemo_bielik.align.dpo import DpoConfig
from nemo_bielik.align.grpo import GrpoConfig
from nemo_bielik.align.measure import RewardConfig
from nemo_bielik.align.settings import AlignConfig
from nemo_bielik.align.sft import SftConfig
from nemo_bielik.checkpoint import copy_tokenizer
from nemo_bielik.data.chat_template import CHAT_TEMPLATE, CHAT_TEMPLATE_NAME
from nemo_bielik.data.indexed import TokenFiles
from nemo_bielik.data.packing import pack, pair_pieces, truncated_pieces
from nemo_bielik.data.tiny_polish.assistant import AssistantDataConfig, make_assistant_data
from nemo_bielik.data.tokenize import TokenizeConfig, tokenize
from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.config import EvaluateConfig
from nemo_bielik.files import atomic_directory, write_json
from nemo_bielik.launch.lanes import Lanes
from nemo_bielik.manifest import Manifest
from nemo_bielik.pipeline import EVALUATE, timed_step
from nemo_bielik.planner.table import align as align_columns
from nemo_bielik.recipes import alignment, tiny
from nemo_bielik.report.gather import read_metrics, read_object
from nemo_bielik.runs import (
    ALIGNED,
    DISTILLED,
    FINE_TUNED,
    INSTRUCTIONS,
    PREFERENCES,
    REWARDED,
    Run,
)

_FUNCTIONS = {
    FINE_TUNED: "nemo_bielik.align.sft:sft",
    ALIGNED: "nemo_bielik.align.dpo:dpo",
    REWARDED: "nemo_bielik.align.grpo:grpo",
}
_REWARD = "nemo_bielik.align.measure:measure_reward"
_RESULTS = "align.json"
_CONVERSATIONS, _PAIRS = f"held_out_{INSTRUCTIONS}", f"held_out_{PREFERENCES}"


@dataclass(kw_only=True)
class AlignDemoConfig:
    """Fine-tuning, preferences and rewards after the demo, on data of its own world."""

    run: Path = field(
        default=Path("runs/demo"), metadata={"help": "what `bielik demo` or `pipeline` made"}
    )
    model: str = field(
        default=f"{DISTILLED}-seed1", metadata={"help": "its model to start from, by name"}
    )
    output: Path = field(default=Path("runs/align"), metadata={"help": "directory of the stages"})
    reward_steps: int = field(default=60, metadata={"help": "optimizer steps of GRPO"})


class Alignment:
    """Where everything lies, and the settings of every stage."""

    def __init__(self, config: AlignDemoConfig) -> None:
        self.config, self.demo, self.run = config, Run(config.run), Run(config.output)
        self.data, self.tokenizer = self.run.root / "data", self.run.root / "chat-tokenizer"
        if not (self.start / "config.json").is_file() or not self.demo.world.is_dir():
            raise DataError(
                f"{config.run}: holds no {config.model} on the built-in world; run `bielik demo` "
                "first, or give run and model"
            )

    @property
    def start(self) -> Path:
        """The distilled model."""
        return self.demo.model(self.config.model)

    def lines(self, name: str) -> Path:
        """JSON lines of the built-in data."""
        return self.data / f"{name}.jsonl"

    def tokenizing(self, name: str) -> TokenizeConfig:
        """Return the settings that turn conversations or pairs into tokens."""
        return TokenizeConfig(
            inputs=[self.lines(name)], tokenizer=self.tokenizer, output=self.run.tokens(name)
        )

    def sft(self) -> SftConfig:
        """Return the settings of the fine-tuning, validated on all held-out conversations."""
        settings = alignment.tiny_sft()
        rows = truncated_pieces(self._lengths(_CONVERSATIONS), settings.sequence_length)
        return replace(
            settings,
            model=self.start,
            tokenizer=self.tokenizer,
            train_data=[self.run.tokens(INSTRUCTIONS)],
            validation_data=self.run.tokens(_CONVERSATIONS),
            eval_interval=200,
            eval_iters=_batches(rows, settings),
            output=self.run.model(FINE_TUNED),
        )

    def dpo(self) -> DpoConfig:
        """Return the settings of the preferences, validated on all held-out pairs."""
        settings = alignment.tiny_dpo()
        rows = pair_pieces(self._lengths(_PAIRS), settings.sequence_length)
        return replace(
            settings,
            model=self.run.model(FINE_TUNED),
            train_data=[self.run.tokens(PREFERENCES)],
            validation_data=self.run.tokens(_PAIRS),
            eval_interval=200,
            eval_iters=_batches(rows, settings),
            output=self.run.model(ALIGNED),
        )

    def _lengths(self, name: str) -> NDArray[np.int32]:
        return TokenFiles.open(self.run.tokens(name)).lengths

    def grpo(self) -> GrpoConfig:
        """Return the settings of the rewards."""
        return GrpoConfig(
            model=self.run.model(ALIGNED),
            tasks=[self.lines("tasks")],
            output=self.run.model(REWARDED),
            **vars(replace(tiny.rewards(), iters=self.config.reward_steps)),
        )

    def rewards(self, name: str) -> RewardConfig:
        """Return the settings that let a model, or the distilled one, answer the held-out tasks."""
        return RewardConfig(
            model=self.start if name == self.config.model else self.run.model(name),
            tokenizer=self.tokenizer if name == self.config.model else None,
            tasks=[self.lines("held_out_tasks")],
            output=self.run.root / "rewards" / name,
            max_answer_tokens=12,
        )

    def evaluation(self, name: str) -> EvaluateConfig:
        """Return the settings that judge a model as the demo judges its own."""
        return EvaluateConfig(
            model=self.run.model(name),
            output=self.run.evaluation(name),
            texts=[self.demo.text("test")],
            minimal_pairs=self.demo.text("minimal_pairs"),
            facts=self.demo.text("facts"),
        )


def describe(config: AlignDemoConfig) -> list[str]:
    """Return the lines that ``--dry-run`` adds; raise `DataError` where there is no demo."""
    found = Alignment(config)
    return [f"{found.start} → {', '.join(str(found.run.model(name)) for name in _FUNCTIONS)}"]


def align(config: AlignDemoConfig) -> None:
    """Run all three stages and print what each is worth; what is done is skipped.

    Writes ``align.json``. Raises `DataError` if `config.run` is no finished demo.
    """
    found = Alignment(config)
    timed_step("conversations, pairs, tasks", lambda: make_data(found))
    with Lanes(1) as lanes:
        timed_step(f"{config.model}, judged", partial(judge_start, found, lanes))
        stages = {FINE_TUNED: found.sft, ALIGNED: found.dpo, REWARDED: found.grpo}
        for name, settings in stages.items():
            timed_step(name, partial(lanes.run, _FUNCTIONS[name], settings()))
            timed_step(f"{name}, judged", partial(judge, found, name, lanes))
    rows = [row(found, name) for name in (config.model, *_FUNCTIONS)]
    write_json(found.run.root / _RESULTS, {"stages": rows})
    print(table(rows))


def make_data(found: Alignment) -> None:
    """Make the built-in data, a tokenizer with a chat template, and tokens."""
    make_assistant_data(AssistantDataConfig(world=found.demo.world, output=found.data))
    if not found.tokenizer.exists():
        with atomic_directory(found.tokenizer) as scratch:
            copy_tokenizer(found.start, scratch)
            (scratch / CHAT_TEMPLATE_NAME).write_text(CHAT_TEMPLATE, encoding="utf-8")
    for name in (INSTRUCTIONS, PREFERENCES, _CONVERSATIONS, _PAIRS):
        tokenize(found.tokenizing(name))


def judge_start(found: Alignment, lanes: Lanes) -> None:
    """Let the distilled model answer the held-out tasks, and validate it as fine-tuning will."""
    lanes.run(_REWARD, found.rewards(found.config.model))
    lanes.run(_FUNCTIONS[FINE_TUNED], replace(found.sft(), stop_after=0))


def judge(found: Alignment, name: str, lanes: Lanes) -> None:
    """Let a model answer the held-out tasks, and judge it as the demo does."""
    lanes.run(_REWARD, found.rewards(name))
    lanes.run(EVALUATE, found.evaluation(name))


def row(found: Alignment, name: str) -> dict[str, Any]:
    """Return a stage's figures; those of the distilled model are the demo's own but for two."""
    start = name == found.config.model
    place = found.demo.evaluation(name) if start else found.run.evaluation(name)
    judged = read_object(place / "results.json")
    figures = {key: judged.get(key) for key in ("minimal_pairs_accuracy", "fact_accuracy")}
    figures["perplexity"] = judged.get("perplexity")
    figures["reward"] = read_object(found.rewards(name).output / "results.json").get("reward")
    figures["answer_loss"] = figures["preference_accuracy"] = None
    if start or name == FINE_TUNED:
        losses = _validations(found, FINE_TUNED, "validation_loss")
        figures["answer_loss"] = losses[0 if start else -1]
    if name == ALIGNED:
        figures["preference_accuracy"] = _validations(found, ALIGNED, "validation_accuracy")[-1]
    seconds = None if start else Manifest.load(found.run.model(name)).wall_seconds
    return {"stage": name, **figures, "wall_seconds": seconds}


def _validations(found: Alignment, name: str, figure: str) -> list[float]:
    """Return a figure of all validations of a stage, that of the model it starts from first."""
    lines = read_metrics(found.run.model(name) / "training" / "metrics.jsonl")
    return [line[figure] for line in lines if figure in line]


def _batches(pieces: NDArray[Any], settings: AlignConfig) -> int:
    """Return how many global batches hold all of `pieces`; the last one begins again with them."""
    rows = pack(pieces, settings.sequence_length, settings.seed, epoch=0)
    return -(-len(rows) // settings.global_batch_size)


def table(rows: list[dict[str, Any]]) -> str:
    """Return the stages as a table, a row each."""
    columns = {
        "held-out reward": ("reward", ".3f"),
        "held-out loss": ("answer_loss", ".3f"),
        "held-out pairs": ("preference_accuracy", ".3f"),
        "minimal pairs": ("minimal_pairs_accuracy", ".3f"),
        "facts": ("fact_accuracy", ".3f"),
        "perplexity": ("perplexity", ".2f"),
        "minutes": ("minutes", ".1f"),
    }
    cells = []
    for one in rows:
        seconds = one["wall_seconds"]
        known = one | {"minutes": None if seconds is None else seconds / 60}
        values = [(known[key], digits) for key, digits in columns.values()]
        cells.append([one["stage"], *("-" if x is None else f"{x:{form}}" for x, form in values)])
    return align_columns(["stage", *columns], cells)
