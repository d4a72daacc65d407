"""One task that was run: its items as they are kept, and what ``results.json`` says of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nemo_bielik.errors import CheckpointError, DataError
from nemo_bielik.evaluate.metrics import metric_of
from nemo_bielik.evaluate.suites.suite import Suite, Task


@dataclass
class TaskRun:
    """The items of one task, from all of its parts."""

    suite: Suite
    task: Task
    lacking: dict[str, str]
    items: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)

    def add(self, name: str, part: Any, samples: Sequence[dict[str, Any]]) -> None:
        """Append the items of lm-eval's task `name`."""
        for sample in samples:
            if sample["filter"] != self.task.score_filter:
                continue
            number = str(sample["doc_id"])
            item = {
                "suite": self.suite.name,
                "task": self.task.name,
                "item": f"{name}/{number}" if self.task.is_group else number,
                "language": self.task.language,
                "category": _subject(self.task, name),
                "metric": self.task.metric,
            }
            told = [str(sample["doc"].get(column, "")) for column in self.task.question]
            if all(told) and told:
                item["question"] = " ".join(told)
            self.items.append(item | self._outcome(part, sample))

    def _outcome(self, part: Any, sample: dict[str, Any]) -> dict[str, Any]:
        answers = [answer for (answer,) in sample["resps"]]
        if self.task.kind == "text":
            kept: dict[str, Any] = {"answer": answers[0]}
            prediction, reference = sample["filtered_resps"][0], sample["target"]
            choices = part.doc_to_choice(sample["doc"]) if part.config.doc_to_choice else None
        else:
            sums = [log_prob for log_prob, _ in answers]
            if not all(map(math.isfinite, sums)):
                raise CheckpointError(
                    f"{self.task.name}: the model gives probabilities that are not numbers; its "
                    "weights are damaged or its training diverged"
                )
            choices = part.doc_to_choice(sample["doc"])
            kept = {"log_probs": sums}
            if isinstance(sample["target"], int) and not 0 <= sample["target"] < len(choices):
                raise DataError(
                    f"{self.task.dataset}: a row does not fit (answer {sample['target']} of "
                    f"{len(choices)} choices)"
                )
            prediction, reference = choices[sums.index(max(sums))], sample["target"]
        if self.task.metric == "bleu":
            return kept | {"prediction": prediction, "references": [reference]}
        if self.task.metric == "macro_f1":
            right = choices[int(reference)] if choices else reference
            return kept | {"prediction": prediction.lower(), "reference": right}
        return kept | {"score": float(sample[self.task.score_from])}

    def summarize(self, *, cut: bool) -> None:
        """Fill in what ``results.json`` says of the task."""
        task = self.task
        self.summary = {
            "metric": task.metric,
            "score": metric_of(task.metric).score(self.items),
            "items": len(self.items),
            "baseline": task.baseline,
            "language": task.language,
            "category": task.category,
            "dataset": task.dataset,
            "split": task.split,
            "few_shot": task.few_shot,
            "prompt": task.definition,
            "schema": task.schema,
            "prompts_cut": cut,
            "empty_answers": sum(item.get("answer") == "" for item in self.items),
        }


def _subject(task: Task, part: str) -> str:
    """Return an item's category: the task's own, or for a group the part's subject."""
    if not task.is_group:
        return task.category
    stem = task.harness.removesuffix("_few_shot_og")
    subject = part.removeprefix(task.harness).removeprefix(stem).removeprefix("_few_shot_og")
    return subject.strip("_").replace("_", " ")
