"""The process that grades: what raises or hangs is skipped and counted, or stops the run."""

from pathlib import Path

import pytest

from nemo_bielik.align.rewards.grading import Answer, Grader, GradingConfig, RewardError
from nemo_bielik.errors import ConfigError

PLACE = "tasks.jsonl: line 7"


@pytest.fixture(autouse=True)
def _own_rewards_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)


def own(name: str) -> list[str]:
    return [f"own_rewards:{name}"]


def grade(grader: Grader, reward: str, *texts: str) -> list[float]:
    tasks = [{"reward": reward, "answer": "4", "prompt": "2+2"} for _ in texts]
    return grader.grade([Answer(text) for text in texts], tasks, [PLACE] * len(texts))


def test_rewards_of_the_table_and_of_ones_own() -> None:
    with Grader(GradingConfig(own=own("length")), ["exact", "length"]) as grader:
        assert grade(grader, "exact", "4", "5", "ś") == [1, 0, 0]
        assert grade(grader, "length", "12345", "a" * 20) == [0.5, 1]
        assert not grader.skipped


def test_equal_rewards_have_exactly_their_own_mean() -> None:
    import torch

    with Grader(GradingConfig(own=own("tenth")), ["tenth"]) as grader:
        rewards = torch.tensor(grade(grader, "tenth", *"abcdefgh"), dtype=torch.float32)
    assert torch.all(rewards - rewards.mean() == 0)
    assert abs(rewards[0] - 0.1) < 1 / 1024
    # without the rounding a group of eight has differences that are none
    plain = torch.tensor([0.1] * 8)
    assert torch.any(plain - plain.mean() != 0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raising", "gave KeyError"),
        ("endless", "took more than 0.5 s"),
        ("dying", "killed its process"),
        ("greedy", "gave MemoryError"),
        ("too_good", "gave a value out of range"),
    ],
)
def test_what_gives_no_value_is_skipped_and_counted_or_stops(name: str, reason: str) -> None:
    with Grader(GradingConfig(own=own(name), seconds=0.5), [name, "exact"]) as grader:
        assert grade(grader, name, "a", "b") == [0, 0]
        assert grader.skipped == {f"{name} {reason}": 2}
        assert grade(grader, "exact", "4") == [1]  # and it goes on
    with (
        Grader(GradingConfig(own=own(name), seconds=0.5, on_error="stop"), [name]) as grader,
        pytest.raises(RewardError, match=f"{PLACE}: reward '{name}' {reason}"),
    ):
        grade(grader, name, "a")


def test_a_formula_that_would_take_for_ever_is_killed() -> None:
    pytest.importorskip("math_verify", reason="mathematical equality needs the extra 'align'")
    task = {"reward": "math", "answer": "x^{2}", "prompt": "Ile?"}
    endless = Answer("9^{9^{9^{9}}}")
    with Grader(GradingConfig(seconds=3), ["math"]) as grader:
        given = [endless, Answer("x^2"), Answer("x^3")]
        assert grader.grade(given, [task] * 3, [PLACE] * 3) == [0, 1, 0]


def test_an_answer_without_an_end_earns_nothing_unless_told() -> None:
    task, cut = {"reward": "exact", "answer": "4"}, Answer("4", finished=False)
    with Grader(GradingConfig(), ["exact"]) as grader:
        assert grader.grade([cut], [task], [PLACE]) == [0]
    with Grader(GradingConfig(unfinished="grade"), ["exact"]) as grader:
        assert grader.grade([cut], [task], [PLACE]) == [1]


def test_a_reward_that_cannot_be_loaded_is_one_line() -> None:
    with (
        Grader(GradingConfig(own=["nowhere:reward"]), ["reward"]) as grader,
        pytest.raises(ConfigError, match="cannot be imported"),
    ):
        grade(grader, "reward", "a")


@pytest.mark.parametrize("changes", [{"on_error": "ignore"}, {"unfinished": "?"}, {"seconds": 0}])
def test_bad_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        GradingConfig(**changes)  # type: ignore[arg-type]
