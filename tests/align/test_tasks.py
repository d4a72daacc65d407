"""Reading tasks: what cannot be used is named by file and line, or counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_bielik.align.rewards.catalog import REWARDS
from nemo_bielik.align.rewards.grading import Grader, GradingConfig
from nemo_bielik.align.tasks import TaskReader
from nemo_bielik.data.chat import ChatTokenizer
from nemo_bielik.errors import DataError

GOOD = {"prompt": "w1 w2", "answer": "w1", "reward": "exact"}
KOTA = {"lemma": "kot", "case": "gen", "number": "sg"}
BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "not a JSON object"),
    "a list": ("[]", "not a JSON object"),
    "no prompt": ({"answer": "w1", "reward": "exact"}, '"prompt" must be a text or a list'),
    "an empty prompt": (GOOD | {"prompt": " "}, "no question"),
    "no messages": (GOOD | {"prompt": []}, '"prompt" must be a text or a list'),
    "a message without text": (
        GOOD | {"prompt": [{"role": "user", "content": None}]},
        '"prompt" must be a text or a list',
    ),
    "an unknown role": (
        GOOD | {"prompt": [{"role": "judge", "content": "w1"}]},
        "unknown role",
    ),
    "an answer at the end": (
        GOOD | {"prompt": [{"role": "assistant", "content": "w1"}]},
        "no question",
    ),
    "a special token": (GOOD | {"prompt": "w1 </s> <s>"}, "a special token spelt out"),
    "no reward": ({"prompt": "w1", "answer": "w1"}, '"reward" is None'),
    "an unknown reward": (GOOD | {"reward": "exakt"}, "did you mean 'exact'"),
    "no answer": ({"prompt": "w1", "reward": "exact"}, '"answer" must be'),
    "an inflection with an answer of no text": (
        {"prompt": "w1", "reward": "inflection", **KOTA, "answer": []},
        '"answer" must be a text',
    ),
    "an endless list": ("[" * 100_000, "not a JSON object"),
    "no UTF-8": ('{"prompt": "\udcbf"}', "is not UTF-8 (byte 0xbf at column 13)"),
    "too long": (GOOD | {"prompt": "w1 " * 20}, "a prompt longer than the context"),
}


@pytest.fixture
def read(
    word_tokenizer: Path, write_tasks: Callable[..., Path]
) -> Callable[..., tuple[TaskReader, Path]]:
    """Return a function from records to a reader and their file."""

    def prepare(records: list[Any], skip: bool = False) -> tuple[TaskReader, Path]:
        reader = TaskReader(ChatTokenizer.open(word_tokenizer), REWARDS, 20, skip)
        return reader, write_tasks(records)

    return prepare


def test_a_task_and_its_prompt(read: Any) -> None:
    turns = [
        {"role": "system", "content": "w9"},
        {"role": "user", "content": "w1 w2"},
        {"role": "assistant", "content": "w1"},
        {"role": "user", "content": "w3"},
    ]
    reader, path = read([GOOD, GOOD | {"prompt": turns, "kind": "talk"}])
    first, second = reader.read([path]).tasks

    def words(ids: list[int]) -> str:
        return " ".join(reader.tokenizer.tokenizer.convert_ids_to_tokens(ids))

    assert words(first.tokens) == "<s> user w1 w2 </s> <s> assistant"
    assert words(second.tokens) == (
        "<s> system w9 </s> <s> user w1 w2 </s> <s> assistant w1 </s> <s> user w3 </s> "
        "<s> assistant"
    )
    assert (first.kind, second.kind) == ("exact", "talk")
    assert second.place == f"{path}: line 2"


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named_or_counted(read: Any, name: str) -> None:
    record, message = BAD[name]
    reader, path = read([GOOD, record, GOOD])
    with pytest.raises(DataError) as error:
        reader.read([path])
    assert str(error.value).startswith(f"{path}: line 2: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    reader, path = read([GOOD, record, GOOD, record], skip=True)
    found = reader.read([path])
    assert len(found.tasks) == 2
    assert list(found.skipped_counts.values()) == [2]


def test_a_file_without_a_usable_task_is_refused(read: Any) -> None:
    reader, path = read([BAD["no prompt"][0]], skip=True)
    with pytest.raises(DataError, match=r"no task that can be used.*line 1"):
        reader.read([path])


def test_a_task_whose_own_answer_earns_nothing_is_refused(read: Any) -> None:
    hopeless = GOOD | {"answer": "w1\nw2"}  # two lines are no answer
    wrong = {"prompt": "w1", "reward": "inflection", **KOTA, "answer": "kotu"}
    for record in (hopeless, wrong):
        for skip in (False, True):
            reader, path = read([GOOD, record], skip)
            found = reader.read([path])
            with Grader(GradingConfig(), found.rewards) as grader:
                if skip:
                    reader.try_own_answers(found, [path], grader)
                    assert [task.fields for task in found.tasks] == [GOOD]
                    assert found.skipped_counts == {"its own answer earns no reward": 1}
                    continue
                with pytest.raises(DataError, match="line 2: its own answer earns no reward"):
                    reader.try_own_answers(found, [path], grader)


def test_an_inflection_needs_no_answer_beside_lemma_case_and_number(read: Any) -> None:
    reader, path = read([{"prompt": "w1", "reward": "inflection", **KOTA}])
    found = reader.read([path])
    with Grader(GradingConfig(), found.rewards) as grader:
        reader.try_own_answers(found, [path], grader)
    assert len(found.tasks) == 1
