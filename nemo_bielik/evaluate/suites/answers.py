"""A model's answers, kept on disk as they come, so that a run which was killed goes on.

One JSON line an answer, named by a hash of the question. lm-eval's own cache waits for the disk
twice an answer (SQLite commits), which costs more than a fast model's answer.
"""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM, hash_args

from nemo_bielik.progress import progress

ANSWERS_NAME = "answers.jsonl"


class Remembering:
    """A model of lm-eval's that is asked only what it has not answered before, with a progress bar.

    It is also the hook that the model calls with every answer as it has it (`add_partial`).
    """

    def __init__(self, lm: LM, work: Path) -> None:
        self.label = ""  # the task that is asked
        self._lm = lm
        self._bar: Any = None
        self._cut: set[str] = set()
        self._known: dict[str, Any] = {}
        path = work / ANSWERS_NAME
        if path.is_file():
            self._read(path)
        self._stream = path.open("a", encoding="utf-8")
        lm.set_cache_hook(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    def loglikelihood(self, questions: list[Any]) -> list[Any]:
        """Return (log-probability, whether greedy) of each question's continuation."""
        return [tuple(answer) for answer in self._answers("loglikelihood", "choices", questions)]

    def generate_until(self, questions: list[Any]) -> list[Any]:
        """Return the text that follows each question."""
        return self._answers("generate_until", "answers", questions)

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        """Keep one answer; lm-eval's models call this."""
        key = hash_args(attr, req)
        if key not in self._known:
            self._known[key] = res
            self._write({"key": key, "answer": res})
            if self._bar is not None:
                self._bar.update()

    @property
    def kept(self) -> str:
        """What to say of the answers on the disk."""
        return f"{len(self._known)} answers are kept and the same command continues"

    def note_cut(self) -> None:
        """Remember that a prompt of the task `label` was cut, also for a run that goes on."""
        if self.label not in self._cut:
            self._cut.add(self.label)
            self._write({"cut": self.label})

    @property
    def was_cut(self) -> bool:
        """Whether a prompt of the task `label` was cut, in this run or before."""
        return self.label in self._cut

    def close(self) -> None:
        """Close the file of answers."""
        self._stream.close()

    def _answers(self, name: str, unit: str, questions: list[Any]) -> list[Any]:
        keys = [hash_args(name, question.args) for question in questions]
        new = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in self._known
        }
        done = len(set(keys)) - len(new)
        with progress(total=len(set(keys)), initial=done, unit=unit, desc=self.label) as self._bar:
            if new:
                found = getattr(self._lm, name)(list(new.values()))
                for question, answer in zip(new.values(), found, strict=True):
                    self.add_partial(name, question.args, answer)
        return [self._known[key] for key in keys]

    def _write(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()  # a killed process loses nothing that it has written

    def _read(self, path: Path) -> None:
        """Read what is kept; a last line that was cut off is dropped from the file too."""
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            entry = json.loads(line)
            if "cut" in entry:
                self._cut.add(entry["cut"])
            else:
                self._known[entry["key"]] = entry["answer"]
        with path.open("r+b") as stream:
            stream.truncate(whole)


class _Cuts(logging.Handler):
    """Hears lm-eval's warnings that a prompt is longer than the model's context."""

    def __init__(self, heard: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        if "runcat" in record.getMessage():
            self.heard()


@contextlib.contextmanager
def quiet(on_cut: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep lm-eval's own bars and messages off the screen; `on_cut` hears of prompts it cuts."""
    logger = logging.getLogger("lm_eval")
    before = (logger.level, logger.propagate)
    handler = _Cuts(on_cut)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
