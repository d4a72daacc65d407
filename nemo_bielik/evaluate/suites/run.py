"""Suites on one model: what can be run is run item by item, what cannot says why."""

import importlib.metadata
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import requests
from jinja2 import TemplateError
from lm_eval import evaluator
from lm_eval.tasks import TaskManager

from nemo_bielik.errors import DataError, ServerError
from nemo_bielik.evaluate.suites.answers import Remembering, quiet
from nemo_bielik.evaluate.suites.data import (
    data_fingerprint,
    data_folder,
    dataset_settings,
    no_downloads,
)
from nemo_bielik.evaluate.suites.models import is_refusal, unreachable
from nemo_bielik.evaluate.suites.suite import Suite, Task
from nemo_bielik.evaluate.suites.task_run import TaskRun
from nemo_bielik.evaluate.suites.upstream_fixes import templates_compiled_once
from nemo_bielik.files import value_sha256

#: lm-eval's own default, so that the few-shot examples are those it draws.
_FEW_SHOT_SEED = 1234
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_LOST = (requests.RequestException, aiohttp.ClientError, TimeoutError, ConnectionError)
#: What templates and scores say of a row that lacks a column or holds another type.
_UNFIT = (KeyError, IndexError, TypeError, ValueError, AssertionError, TemplateError)


@dataclass
class Runner:
    """What all tasks of a run have in common.

    `no_choices` says why choices cannot be scored on this model ("" if they can); `max_tokens` is
    the model's context where it is known.
    """

    lm: Any
    suites: Sequence[Suite]
    data_dir: Path | None
    limit: int | None
    work: Path
    chat: bool = False
    no_choices: str = ""
    max_tokens: int | None = None
    address: str = ""
    _manager: TaskManager = field(init=False)
    _fingerprints: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folders = {task.folder for suite in self.suites for task in suite.tasks}
        with quiet():
            self._manager = TaskManager(include_path=sorted(folders), include_defaults=False)

    def run(self, items: TextIO) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, results) suite by suite, and write one JSON line an item to `items`.

        Raises `ServerError` if the server is lost; what was answered is kept in `work`.
        """
        remembering = Remembering(self.lm, self.work)
        try:
            with no_downloads(), templates_compiled_once():
                for suite in self.suites:
                    yield suite.name, self._run_suite(suite, remembering, items)
        finally:
            remembering.close()

    def _run_suite(self, suite: Suite, lm: Remembering, items: TextIO) -> dict[str, Any]:
        done: dict[str, Any] = {}
        lacking: dict[str, str] = {}
        identities = []
        for task in suite.tasks:
            lm.label = task.name
            try:
                found = self._run_task(suite, task, lm)
            except ServerError:
                raise
            except DataError as error:
                lacking[task.name] = str(error)
                continue
            for item in found.items:
                items.write(json.dumps(item, ensure_ascii=False) + "\n")
            items.flush()
            version = value_sha256([self.chat, found.identity])
            done[task.name] = found.summary | {"version": version}
            lacking |= found.lacking
            identities.append(found.identity)
        return {
            "status": "run" if done else "not run",
            "reason": _reason(suite, lacking),
            "version": value_sha256([suite.name, self.chat, *identities]) if done else None,
            "limit": self.limit,
            "tasks": done,
            "not_run": lacking,
        }

    def _run_task(self, suite: Suite, task: Task, lm: Remembering) -> TaskRun:
        if task.kind == "choice" and self.no_choices:
            raise DataError(self.no_choices)
        changes: dict[str, Any] = dict(task.changes)
        fingerprint = ""
        if task.needs_data:
            folder = data_folder(task, self.data_dir)
            changes |= dataset_settings(task, folder, self.work / "datasets")
            fingerprint = self._fingerprint(folder)
        with quiet(lm.note_cut):
            parts, lacking = self._load(task, changes)
            samples = self._ask(task, parts, lm)
        run = TaskRun(suite, task, lacking)
        for name, part in parts.items():
            run.add(name, part, samples[name])
        run.identity = {"task": task.name, "metric": task.metric, "data": fingerprint} | {
            name: _definition(part) for name, part in parts.items()
        }
        run.identity["harness"] = importlib.metadata.version("lm_eval")
        run.summarize(cut=lm.was_cut)
        return run

    def _fingerprint(self, folder: Path) -> str:
        if folder not in self._fingerprints:
            self._fingerprints[folder] = data_fingerprint(folder)
        return self._fingerprints[folder]

    def _load(self, task: Task, changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return lm-eval's tasks by name, and the reasons for those that cannot be asked."""
        parts, lacking = {}, {}
        for name in self._leaves(task.harness):
            spec = {"task": name, "num_fewshot": task.few_shot, **changes}
            try:
                # a task that is not in a group loses its file, and with it its prompt
                (part,) = self._manager.load([{"group": "bielik", "task": [spec]}])[
                    "tasks"
                ].values()
            except Exception as error:
                # what readers, templates and filters say of data that are not the dataset's has no
                # type in common: BadZipFile, YAMLError, RuntimeError, even StopIteration
                reason = str(error).partition("\n")[0][:300] or type(error).__name__
                lacking[name] = f"{task.dataset} cannot be read: {reason}"
                continue
            part.set_fewshot_seed(seed=_FEW_SHOT_SEED)
            reason = self._obstacle(part, task)
            if reason:
                lacking[name] = reason
            else:
                parts[name] = part
        if not parts:
            raise DataError(next(iter(lacking.values())))
        return parts, lacking

    def _leaves(self, name: str) -> list[str]:
        """Return the tasks of a group of lm-eval's, in its order; a task stands for itself."""
        entry = self._manager.task_index[name]
        children = sorted(entry.tags) if entry.cfg is None else []
        if "group" in (entry.cfg or {}):
            children = [
                child if isinstance(child, str) else child.get("group") or child["task"]
                for child in (entry.cfg or {})["task"]
            ]
        return [leaf for child in children for leaf in self._leaves(child)] or [name]

    def _obstacle(self, part: Any, task: Task) -> str:
        if task.few_shot:
            examples = len(part.fewshot_docs())
            # as lm-eval draws: the question itself is left out where it is among the examples
            among = part.fewshot_cfg.split == part.config.test_split
            if examples < task.few_shot + among:
                itself = " and the question itself" if among else ""
                return (
                    f"{task.few_shot} examples{itself} need more rows than the {examples} there are"
                )
        if task.kind == "text" and self.max_tokens:
            longest = part.config.generation_kwargs.get("max_gen_toks", 256)
            if longest >= self.max_tokens:
                return f"answers take {longest} tokens, the model knows {self.max_tokens} positions"
        return ""

    def _ask(
        self, task: Task, parts: dict[str, Any], lm: Remembering
    ) -> dict[str, list[dict[str, Any]]]:
        try:
            found = evaluator.evaluate(
                lm,
                {"tasks": parts},
                limit=self.limit,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.chat,
                fewshot_as_multiturn=self.chat,
            )
        except ServerError as error:
            raise ServerError(f"{self.address}: {error}; {lm.kept}") from None
        except json.JSONDecodeError as error:
            raise ServerError(
                f"{self.address}: answer out of format: not JSON ({error}); {lm.kept}"
            ) from None
        except _LOST as error:
            if is_refusal(error):  # of a prompt that is too long, for example
                raise DataError(f"the server refuses a question of {task.name}: {error}") from error
            raise ServerError(f"{unreachable(self.address, error)}; {lm.kept}") from None
        except _UNFIT as error:
            reason = str(error).partition("\n")[0][:300]
            raise DataError(
                f"{task.dataset}: a row does not fit ({type(error).__name__}: {reason})"
            ) from error
        assert found is not None, "only the first rank has results, and there is one"
        samples: dict[str, list[dict[str, Any]]] = found["samples"]
        return samples


def _definition(part: Any) -> str:
    """Return what decides a part's prompts and scores, without where data or functions lie."""
    config = part.dump_config()
    for name in ("dataset_path", "dataset_name", "dataset_kwargs"):
        config.pop(name, None)
    metadata = {k: v for k, v in (config.get("metadata") or {}).items() if k != "config_source"}
    text = json.dumps({**config, "metadata": metadata}, sort_keys=True, default=str)
    return _ADDRESS.sub("", text)


def _reason(suite: Suite, lacking: dict[str, str]) -> str | None:
    if not suite.tasks:
        return suite.instead
    if not lacking:
        return None
    name, first = next(iter(lacking.items()))
    if len(suite.tasks) == 1:
        return first
    return f"{len(lacking)} of {len(suite.tasks)} tasks not run; the first, {name}: {first}"
