"""What a suite is: rows that name dataset, split, few-shot count, prompt and metric."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

#: Where the files lie whose prompts are ours.
OWN_TASKS = Path(__file__).parent / "tasks"
#: Where a definition starts that lm-evaluation-harness brings.
LM_EVAL = "lm_eval/tasks/"


@dataclass(frozen=True, kw_only=True)
class Task:
    """One dataset in one language.

    `definition` is the file or folder that holds the prompt: below lm-eval's package, or one of
    ours. `harness` is the task's name there, or a group's, whose parts are scored together.
    `score_from` is the metric by which lm-eval scores an item, `score_filter` the filter before
    it. `changes` replaces settings of the definition. `schema` says where the dataset's columns
    are documented, or that they could not be checked. `question` names the columns that tell a
    question apart where the dataset asks it in several languages, in an order of each.
    """

    name: str
    definition: str
    harness: str
    dataset: str
    split: str
    metric: str
    kind: Literal["choice", "text"]
    language: str
    category: str
    few_shot: int
    schema: str
    baseline: float = 0.0
    config: str | None = None
    is_group: bool = False
    score_from: str = "acc"
    score_filter: str = "none"
    changes: Mapping[str, Any] = field(default_factory=dict)
    question: tuple[str, ...] = ()

    @property
    def needs_data(self) -> bool:
        """Whether its items come from files; some are made on the spot."""
        return self.dataset != MADE_HERE

    @property
    def folder(self) -> Path:
        """The folder below which lm-eval looks for the definition."""
        if not self.definition.startswith(LM_EVAL):
            return OWN_TASKS
        import lm_eval.tasks

        found = Path(lm_eval.tasks.__file__).parent / self.definition.removeprefix(LM_EVAL)
        return found if found.is_dir() else found.parent


#: Belebele's questions, of which every language has its own wording.
BELEBELE, BELEBELE_QUESTION = "facebook/belebele", ("link", "question_number")
#: The dataset of tasks that make their items.
MADE_HERE = "made on the spot"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks whose scores belong together.

    A suite without tasks is not run by lm-eval; `instead` says by whom, and what to do without.
    """

    name: str
    help: str
    tasks: tuple[Task, ...] = ()
    instead: str = ""
