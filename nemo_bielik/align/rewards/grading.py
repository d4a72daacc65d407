"""Grading answers in a process that is killed when a reward takes too long."""

import collections
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, get_args

from nemo_bielik.align.rewards.answers import Task
from nemo_bielik.align.rewards.worker import READY
from nemo_bielik.errors import BielikError, ConfigError

Policy = Literal["skip", "stop"]
#: Getting ready means importing SymPy, on a busy machine too.
_START_SECONDS = 300.0
#: Rewards become multiples of this. Equal ones then have exactly their own mean (sums of up to
#: 8,192 of them fit float32), so that a group without differences has no advantages at all.
STEP = 1 / 1024


class RewardError(BielikError):
    """A reward that raised or took too long, where that is to stop the run."""


class _Trouble(Exception):
    """Why a reward gave no value: a reason to count it by, and particulars."""

    def __init__(self, reason: str, particulars: str = "") -> None:
        super().__init__(f"{reason} ({particulars})" if particulars else reason)
        self.reason = reason


@dataclass(frozen=True)
class Answer:
    """What a model wrote; `finished` tells whether it came to an end of its own accord."""

    text: str
    finished: bool = True


@dataclass(kw_only=True)
class GradingConfig:
    """How answers are graded."""

    on_error: Policy = field(
        default="skip",
        metadata={
            "help": "a reward that raises or takes too long: skip (no reward, counted) or stop"
        },
    )
    seconds: float = field(default=5.0, metadata={"help": "time limit of one reward"})
    unfinished: Literal["nothing", "grade"] = field(
        default="nothing", metadata={"help": "what an answer cut at the token limit earns"}
    )
    own: list[str] = field(
        default_factory=list,
        metadata={"help": "your rewards, module:function (answer's text, task) -> 0 to 1"},
    )

    def __post_init__(self) -> None:
        choices = {"on_error": get_args(Policy), "unfinished": ("nothing", "grade")}
        for name, allowed in choices.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(allowed)}")
        if not self.seconds > 0:
            raise ConfigError(f"seconds is {self.seconds}; it must be above 0")


class Grader:
    """Rewards of answers by a worker process; `skipped` counts those that gave no value, by why.

    A context manager: the worker ends with the block.
    """

    def __init__(self, config: GradingConfig, names: Sequence[str]) -> None:
        self.config = config
        self.names = sorted(set(names))
        self.skipped: collections.Counter[str] = collections.Counter()
        self._worker: subprocess.Popen[bytes] | None = None
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def grade(
        self, answers: Sequence[Answer], tasks: Sequence[Task], places: Sequence[str]
    ) -> list[float]:
        """Return the reward of each answer to its task, a multiple of `STEP` in [0, 1].

        `places` tell where the tasks were read. Raises `RewardError` where `on_error` is stop.
        """
        return [
            self._grade(answer, task, place)
            for answer, task, place in zip(answers, tasks, places, strict=True)
        ]

    def _grade(self, answer: Answer, task: Task, place: str) -> float:
        if not answer.finished and self.config.unfinished == "nothing":
            return 0.0
        try:
            value = self._ask({"reward": task["reward"], "text": answer.text, "task": dict(task)})
        except _Trouble as trouble:
            if self.config.on_error == "stop":
                raise RewardError(
                    f"{place}: reward {task['reward']!r} {trouble} on the answer "
                    f"{answer.text[:80]!r}; mend task or reward, or set grading.on_error=skip"
                ) from None
            self.skipped[f"{task['reward']} {trouble.reason}"] += 1
            return 0.0
        return round(value / STEP) * STEP

    def _ask(self, request: Mapping[str, Any]) -> float:
        worker = self._worker or self._start()
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(request).encode() + b"\n")
            worker.stdin.flush()
            reply = self._read(self.config.seconds)
        except TimeoutError:
            self._stop()
            raise _Trouble(f"took more than {self.config.seconds:g} s") from None
        except (EOFError, BrokenPipeError):
            self._stop()
            raise _Trouble("killed its process") from None
        if "error" in reply:
            raise _Trouble(f"gave {reply['error']}", reply["detail"])
        return float(reply["value"])

    def _start(self) -> "subprocess.Popen[bytes]":
        words = [str(os.getpid()), ",".join(self.names), ",".join(self.config.own)]
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "nemo_bielik.align.rewards.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            said = self._read(_START_SECONDS)
        except (TimeoutError, EOFError):
            said = {"error": "its process ended", "detail": "or took too long"}
        if READY not in said:
            self._stop()
            raise ConfigError(
                f"rewards {', '.join(self.names)} cannot be loaded ({said['error']}: "
                f"{said['detail']}); run 'make env' or install nemo-bielik[align]"
            )
        return self._worker

    def _read(self, seconds: float) -> dict[str, Any]:
        """Return the worker's next line; raise `TimeoutError`, or `EOFError` if it has ended."""
        assert self._worker is not None and self._worker.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._worker.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(seconds):
                    raise TimeoutError
                read = os.read(self._worker.stdout.fileno(), 2**16)
                if not read:
                    raise EOFError
                self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def _stop(self) -> None:
        worker, self._worker, self._unread = self._worker, None, b""
        if worker is not None:
            worker.kill()
            worker.communicate()
