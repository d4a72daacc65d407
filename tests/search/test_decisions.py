"""Who goes on: planted failures named for the right reason, the rest by rank."""

import random
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_bielik.arch import preset
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.decisions import Decisions
from nemo_bielik.search.halving import plan
from nemo_bielik.search.trial import Record
from nemo_bielik.search.verdicts import SELECTED, STOPPED, SUB_OPTIMAL, UNSTABLE, StabilityLimits
from nemo_bielik.training import OptimConfig, TrainSettings

ITERS, EVERY = 324, 18
RUN = TrainSettings(
    iters=ITERS,
    sequence_length=64,
    global_batch_size=16,
    micro_batch_size=16,
    eval_interval=EVERY,
    optim=OptimConfig(warmup_iters=6),
)
#: Where each candidate's loss ends up; the last two are planted.
FLOORS = {
    "a": 0.30,
    "b": 0.32,
    "c": 0.36,
    "d": 0.40,
    "e": 0.31,
    "f": 0.33,
    "g": 0.34,
    "wild": 0.3,
    "hopeless": 3.0,
}


@dataclass
class PlayedTrial:
    """A trial whose record is a curve with the noise of small batches."""

    candidate: Candidate
    seed: int

    def record(self) -> Record:
        floor, noise = FLOORS[self.candidate.name], random.Random(self.seed)
        wild = self.candidate.name == "wild"
        steps = [
            {
                "step": n,
                "tokens": n * 1024,
                "loss": (floor + n**-0.5) * noise.uniform(0.97, 1.03),
                "grad_norm": noise.uniform(0.8, 1.2) * (30 if wild and n % 8 == 0 else 1),
                "seconds": 0.1 * n,
            }
            for n in range(1, ITERS + 1)
        ]
        validations = {n: floor + n**-0.5 for n in range(EVERY, ITERS + 1, EVERY)}
        return Record(steps, {0: 5.0, **validations})


def decide(names: list[str], seeds: tuple[int, ...] = (1,), **changes: Any) -> Decisions:
    candidates = [Candidate(name, preset("tiny-exp-010")) for name in names]
    config: Any = SimpleNamespace(
        recovery=RUN, judge=StabilityLimits(), seeds=list(seeds), after_cut=0, **changes
    )
    decisions = Decisions(candidates, config)
    schedule = plan(len(names), ITERS, 3, 2, EVERY)

    def trials(some: list[Candidate]) -> Any:
        return [PlayedTrial(candidate, seed) for candidate in some for seed in seeds]

    decisions.begin(trials(candidates))
    for number in range(len(schedule.rungs)):
        decisions.judge(number, schedule, trials(decisions.alive))
    return decisions


@pytest.fixture(scope="module")
def decisions() -> Decisions:
    return decide([*"abcd", "wild", "hopeless"])


def test_the_best_is_selected_and_the_other_finalist_is_not(decisions):
    words = {name: verdict.word for name, verdict in decisions.verdicts.items()}
    assert words["a"] == SELECTED
    assert words["b"] == SUB_OPTIMAL
    assert [candidate.name for candidate in decisions.alive] == ["a"]
    numbers = decisions.verdicts["b"].numbers
    # the curve at step 324: floor + 1/18
    assert (numbers["rank"], numbers["selected"]) == (2, "a")
    assert numbers["kl"] == pytest.approx([0.32 + 1 / 18])
    assert numbers["selected_kl"] == pytest.approx([0.30 + 1 / 18])


def test_planted_gradient_spikes_are_unstable(decisions):
    verdict = decisions.verdicts["wild"]
    assert verdict.word == UNSTABLE
    # steps 7 to 108 less a window of ten; of those 24, 32 … 104
    assert verdict.reason.startswith("gradient spikes in 11 of 92 steps, limit 5%")
    assert verdict.numbers["largest_gradient"] > 20


def test_a_planted_hopeless_one_is_stopped_because_it_cannot_win(decisions):
    verdict = decisions.verdicts["hopeless"]
    assert verdict.word == STOPPED
    assert verdict.reason.startswith("cannot win: ")
    assert verdict.numbers["leader"] == "a"
    assert verdict.numbers["predicted_low"] > verdict.numbers["leader_reached"]
    assert verdict.numbers["step"] == 108


def test_rounds_are_kept(decisions):
    assert [one["name"] for one in decisions.rounds] == ["right after the cut", "rung 1", "rung 2"]
    assert "wild" not in decisions.rounds[1]["order"]
    assert decisions.rounds[1]["order"] == ["a", "b", "c", "d", "hopeless"]
    assert decisions.rounds[1]["kendall_to_round_before"] == 1.0  # all equal before: as they came


def test_those_who_could_have_won_are_stopped_by_rank():
    # seven: 7 → 3 → 1
    decisions = decide([*"abcdefg"])
    assert decisions.rounds[1]["order"] == ["a", "e", "b", "f", "g", "c", "d"]
    verdict = decisions.verdicts["f"]
    assert verdict.word == STOPPED
    assert verdict.reason.startswith("rank 4 of 7 after step 36: KL ")
    assert verdict.reason.endswith("of the last to go on (b)")
    # after step 36: floor + 1/6
    assert verdict.numbers["kl"] == pytest.approx([0.33 + 1 / 6])
    assert verdict.numbers["last_kl"] == pytest.approx([0.32 + 1 / 6])


def test_seeds_count_together():
    decisions = decide(["a", "b", "c"], seeds=(1, 2))
    assert len(decisions.rounds[-1]["kl"]["a"]) == 2
    assert decisions.verdicts["a"].word == SELECTED


def test_nobody_is_left_of_the_unstable():
    decisions = decide(["wild"])
    assert decisions.alive == []
    assert decisions.summary().startswith("wild: unstable, gradient spikes")


def test_only_the_best_right_after_the_cut_train_if_that_is_wanted():
    candidates = [Candidate(name, preset("tiny-exp-010")) for name in "abc"]
    config: Any = SimpleNamespace(recovery=RUN, judge=StabilityLimits(), seeds=[1], after_cut=2)
    decisions = Decisions(candidates, config)
    decisions.begin([PlayedTrial(candidate, 1) for candidate in candidates])
    assert [candidate.name for candidate in decisions.alive] == ["a", "b"]
    verdict = decisions.verdicts["c"]
    assert (verdict.word, verdict.reason) == (
        STOPPED,
        "right after the cut: rank 3 of 3, 2 go on",
    )
