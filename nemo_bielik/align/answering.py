"""A model's own answers to tasks, the likeliest token each time, and what they earn."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from nemo_bielik.align.rewards.grading import Answer, Grader
from nemo_bielik.align.tasks import VerifiableTask
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.evaluate.language_model import batches_of
from nemo_bielik.progress import progress


@dataclass(frozen=True)
class Graded:
    """A task's answer and its reward."""

    task: VerifiableTask
    answer: Answer
    reward: float

    def line(self) -> str:
        """Return it as a JSON line."""
        fields = self.task.fields
        value = {
            "kind": self.task.kind,
            "prompt": fields["prompt"],
            "wanted": fields.get("answer"),
            "answer": self.answer.text,
            "finished": self.answer.finished,
            "reward": self.reward,
        }
        return json.dumps(value, ensure_ascii=False) + "\n"


def open_model(checkpoint: Checkpoint) -> Any:
    """Return a model to answer with: in float32 on a CPU, as it is stored on a GPU."""
    if torch.cuda.is_available():
        return load_model(checkpoint, "auto").eval().cuda()
    return load_model(checkpoint, torch.float32).eval()


def load_model(checkpoint: Checkpoint, dtype: "torch.dtype | str") -> Any:
    """Return transformers' model of a validated checkpoint, from its files alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        str(checkpoint.directory),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
    )


def read_answer(tokenizer: ChatTokenizer, ids: list[int]) -> Answer:
    """Return what generated `ids` say up to the end of their turn; special tokens stay visible."""
    said = tokenizer.up_to_end(ids)
    finished = bool(said) and said[-1] in tokenizer.ends
    said = said[:-1] if finished else said
    return Answer(tokenizer.tokenizer.decode(said, skip_special_tokens=False), finished)


def grade_tasks(
    model: Any,
    tokenizer: ChatTokenizer,
    tasks: Sequence[VerifiableTask],
    grader: Grader,
    max_answer_tokens: int,
    batch_size: int,
) -> list[Graded]:
    """Return the greedy answer to each task with its reward, in the order of `tasks`."""
    found: dict[int, Graded] = {}
    with progress(total=len(tasks), desc="answers", unit="task") as bar:
        for places in _batches(tasks, batch_size):
            chosen = [tasks[place] for place in places]
            answers = _answers(model, tokenizer, chosen, max_answer_tokens)
            rewards = grader.grade(
                answers, [task.fields for task in chosen], [task.place for task in chosen]
            )
            for place, answer, reward in zip(places, answers, rewards, strict=True):
                found[place] = Graded(tasks[place], answer, reward)
            bar.update(len(places))
    return [found[place] for place in range(len(tasks))]


def summarize(graded: Sequence[Graded]) -> dict[str, Any]:
    """Return the mean reward, that of each kind of task, and how many answers had no end."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for item in graded:
        kinds[item.task.kind].append(item.reward)
    return {
        "reward": fmean(item.reward for item in graded),
        "tasks": len(graded),
        "unfinished": sum(not item.answer.finished for item in graded),
        "by_kind": {
            kind: {"reward": fmean(rewards), "tasks": len(rewards)}
            for kind, rewards in sorted(kinds.items())
        },
    }


def write_items(path: Path, graded: Sequence[Graded]) -> None:
    """Write one JSON line an answer."""
    path.write_text("".join(item.line() for item in graded), encoding="utf-8")


def in_words(summary: Mapping[str, Any]) -> str:
    """Return a summary as one line of words."""
    kinds = summary["by_kind"].items()
    parts = ", ".join(f"{kind} {found['reward']:.3f}" for kind, found in kinds)
    return f"{summary['reward']:.3f} over {summary['tasks']:,} tasks ({parts})"


def _batches(tasks: Sequence[VerifiableTask], batch_size: int) -> Iterator[list[int]]:
    """Yield places of prompts of like length, `batch_size` or fewer at a time."""
    longest = max(len(task.tokens) for task in tasks)
    for places in batches_of([len(task.tokens) for task in tasks], batch_size * longest):
        for start in range(0, len(places), batch_size):
            yield places[start : start + batch_size]


@torch.inference_mode()
def _answers(
    model: Any, tokenizer: ChatTokenizer, tasks: Sequence[VerifiableTask], max_answer_tokens: int
) -> list[Answer]:
    width = max(len(task.tokens) for task in tasks)
    pad = tokenizer.ends[0]
    rows = [[pad] * (width - len(task.tokens)) + task.tokens for task in tasks]
    mask = [[0] * (width - len(task.tokens)) + [1] * len(task.tokens) for task in tasks]
    device = model.device
    output = model.generate(
        input_ids=torch.tensor(rows, device=device),
        attention_mask=torch.tensor(mask, device=device),
        max_new_tokens=max_answer_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
        eos_token_id=tokenizer.ends,
    )
    return [read_answer(tokenizer, ids) for ids in output[:, width:].tolist()]
