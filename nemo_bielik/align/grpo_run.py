"""A GRPO run: TRL's trainer between our tasks and a model directory."""

import contextlib
import copy
import os
import pickle
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig as TrlConfig
from trl import GRPOTrainer

from nemo_bielik.align import answering
from nemo_bielik.align.grpo import GrpoConfig, GrpoInputs, tried_tasks
from nemo_bielik.align.grpo_callbacks import (
    Metrics,
    Seals,
    StopOnSignal,
    last_sealed,
)
from nemo_bielik.align.grpo_settings import trl_arguments
from nemo_bielik.align.measure import skipped_lines
from nemo_bielik.align.rewards.grading import Grader
from nemo_bielik.align.tasks import TaskFile, VerifiableTask
from nemo_bielik.checkpoint import Checkpoint, CheckpointWriter, copy_tokenizer
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.errors import CheckpointError
from nemo_bielik.files import explain_disk_errors, write_json
from nemo_bielik.report.gather import read_metrics, read_object
from nemo_bielik.stages import hold_work, stage_output, work_directory

METRICS = Path("training") / "metrics.jsonl"
_BEFORE = "before.json"
_GRADING_BATCH = 64


def run(inputs: GrpoInputs) -> None:
    """Train, measure on the held-out tasks before and after, and write the output.

    Raises `StorageError` if another recipe's work lies in the way, or another process works on it.
    """
    started = time.monotonic()
    config = inputs.config
    with tried_tasks(inputs) as (read, held_out, grader):
        ends = inputs.reader.tokenizer.ends
        arguments = trl_arguments(config, work_directory(config.output), ends)
        with _work_of_all_ranks(inputs) as work:
            if work is not None:
                _run(inputs, arguments, read, held_out, grader, work, started)


@contextlib.contextmanager
def _work_of_all_ranks(inputs: GrpoInputs) -> Iterator[Path | None]:
    """Yield the unfinished work of the output, which rank 0 holds for all; None if it is done.

    Several ranks know each other by now: TRL's settings have joined their process group.
    """
    with contextlib.ExitStack() as held:
        work: list[Path | None] = [None]
        if _writes():
            work = [held.enter_context(hold_work(inputs.config.output, inputs.manifest))]
        if dist.is_initialized():
            dist.broadcast_object_list(work)
        yield work[0]


def _run(
    inputs: GrpoInputs,
    arguments: TrlConfig,
    read: TaskFile,
    held_out: TaskFile,
    grader: Grader,
    work: Path,
    started: float,
) -> None:
    config = inputs.config
    results = _before(inputs, held_out.tasks, grader, work) if _writes() else {}
    trainer = _trainer(inputs, arguments, read.tasks, grader, work)
    _train(trainer, config, work)
    if trainer.state.global_step < config.iters:
        raise SystemExit(0)  # by a signal; a checkpoint is saved
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    _gather_skipped(grader)
    if not _writes():
        return
    with stage_output(config.output, inputs.manifest, results, started) as scratch:
        _write_model(inputs.checkpoint, state, scratch)
        (scratch / METRICS).parent.mkdir()
        shutil.copyfile(work / METRICS.name, scratch / METRICS)
        written = Checkpoint.open(scratch)
        results |= _measured(inputs, written, held_out.tasks, grader, "reward_after")
        results |= _training_summary(work)
        skipped = {
            "tasks": read.skipped_counts,
            "held_out_tasks": held_out.skipped_counts,
            "rewards": dict(grader.skipped),
        }
        results |= {f"{what}_skipped": counts for what, counts in skipped.items()}
    shutil.rmtree(work)
    for line in skipped_lines(skipped):
        print(line)


def _gather_skipped(grader: Grader) -> None:
    """Give the rank that writes the counts of all: each graded its own answers."""
    if not dist.is_initialized():
        return
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, grader.skipped)
    if _writes():
        grader.skipped = sum(found, Counter())


def _writes() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _before(
    inputs: GrpoInputs, tasks: Sequence[VerifiableTask], grader: Grader, work: Path
) -> dict[str, Any]:
    """Return what the model earns untrained, measured once however often the run is resumed."""
    found = read_object(work / _BEFORE)
    if not found:
        found = _measured(inputs, inputs.checkpoint, tasks, grader, "reward_before")
        write_json(work / _BEFORE, found)
    return found


def _measured(
    inputs: GrpoInputs,
    checkpoint: Checkpoint,
    tasks: Sequence[VerifiableTask],
    grader: Grader,
    name: str,
) -> dict[str, Any]:
    if not tasks:
        return {}
    graded = answering.grade_tasks(
        answering.open_model(checkpoint),
        inputs.reader.tokenizer,
        tasks,
        grader,
        inputs.config.max_answer_tokens,
        _GRADING_BATCH,
    )
    summary = answering.summarize(graded)
    print(f"{name.replace('_', ' ')} {answering.in_words(summary)}", flush=True)
    return {name: summary}


class _Trainer(GRPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which knows one end of an answer, where a chat's turn has an end of its own.

    What generation adds behind an end (padding to the longest answer) is no part of an answer.
    """

    def __init__(self, *, chat: ChatTokenizer, **settings: Any) -> None:
        tokenizer = copy.deepcopy(chat.tokenizer)
        tokenizer.padding_side = "left"  # transformers 4 ignores what TRL gives to the template
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.model_input_names = ["input_ids", "attention_mask"]  # what our models take
        super().__init__(processing_class=tokenizer, **settings)
        self.chat = chat
        # TRL takes what ends with this or with padding for finished; in the tokenizer it would
        # change what templates write
        turn = [token for token in chat.ends if token != tokenizer.eos_token_id]
        self.eos_token_id = turn[0] if turn else tokenizer.eos_token_id

    def _generate_single_turn(self, prompts: list[Any]) -> tuple[Any, ...]:
        prompt_ids, answers, log_probs, others = super()._generate_single_turn(prompts)
        answers = [self.chat.up_to_end(ids) for ids in answers]
        if log_probs is not None:
            log_probs = [one[: len(ids)] for one, ids in zip(log_probs, answers, strict=True)]
        return prompt_ids, answers, log_probs, others


def _trainer(
    inputs: GrpoInputs,
    arguments: TrlConfig,
    tasks: Sequence[VerifiableTask],
    grader: Grader,
    work: Path,
) -> GRPOTrainer:
    chat = inputs.reader.tokenizer
    rows = [{"prompt": task.messages, "task": number} for number, task in enumerate(tasks)]

    def reward(completion_ids: list[list[int]], task: list[int], **unused: Any) -> list[float]:
        asked = [tasks[number] for number in task]
        answers = [answering.read_answer(chat, ids) for ids in completion_ids]
        return grader.grade(answers, [t.fields for t in asked], [t.place for t in asked])

    trainer = _Trainer(
        chat=chat,
        model=answering.load_model(inputs.checkpoint, torch.float32),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        callbacks=[StopOnSignal(), Seals(), Metrics(work / METRICS.name, inputs.config.iters)],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _train(trainer: GRPOTrainer, config: GrpoConfig, work: Path) -> None:
    """Train from the last whole checkpoint; nothing in it but tensors and numbers is unpickled."""
    with explain_disk_errors(config.output):
        try:
            trainer.train(resume_from_checkpoint=last_sealed(work))
        except pickle.UnpicklingError:
            raise CheckpointError(
                f"{work}: its checkpoint holds what a checkpoint of this run does not; remove the "
                "directory and start again"
            ) from None


def _training_summary(work: Path) -> dict[str, Any]:
    """Return what a reader wants of the run's metrics."""
    lines = read_metrics(work / METRICS.name)
    rewards = [line["reward"] for line in lines if "reward" in line]
    return {
        "steps": len(lines),
        "first_training_reward": rewards[0],
        "last_training_reward": rewards[-1],
    }


def _write_model(checkpoint: Checkpoint, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Write the trained weights under the names and in the formats of the model's own files."""
    writer = CheckpointWriter(directory, checkpoint.config)
    for name, stored in checkpoint.tensors.items():
        dtype: torch.dtype = getattr(torch, stored.format.torch_name)
        # a copy: what is tied in memory is stored once
        writer.add(name, state[name].detach().to("cpu", dtype, copy=True))
    writer.finish()
    copy_tokenizer(checkpoint.directory, directory)
