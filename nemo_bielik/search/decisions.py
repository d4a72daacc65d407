"""Who goes on after each rung, and why the others do not; from the trials' records alone."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.halving import Schedule
from nemo_bielik.search.ranking import kendall, order
from nemo_bielik.search.trial import Record, Trial
from nemo_bielik.search.verdicts import (
    SELECTED,
    STOPPED,
    SUB_OPTIMAL,
    UNSTABLE,
    Futility,
    Stability,
    Verdict,
    measure_futility,
    measure_stability,
)

if TYPE_CHECKING:
    from nemo_bielik.search.config import SearchConfig

AFTER_CUT = "right after the cut"


@dataclass
class Decisions:
    """The state of a search: who is alive, verdicts, and the order after every round."""

    entered: list[Candidate]
    config: "SearchConfig"
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    stability: dict[str, list[Stability]] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.alive = list(self.entered)

    def begin(self, trials: Sequence[Trial]) -> None:
        """Order all candidates right after the cut; with `after_cut`, keep the best of them."""
        self._rank(AFTER_CUT, 0, _records(trials))
        losses = self.rounds[0]["kl"]
        kept = self.rounds[0]["order"][: self.config.after_cut or None]
        for name in self.rounds[0]["order"][len(kept) :]:
            place = self.rounds[0]["order"].index(name) + 1
            self._end(
                name,
                STOPPED,
                f"right after the cut: rank {place} of {len(self.alive)}, {len(kept)} go on",
                {"kl": losses[name], "rank": place, "go_on": len(kept)},
            )

    def judge(self, number: int, schedule: Schedule, trials: Sequence[Trial]) -> None:
        """Decide after rung `number` (from 0): the unstable, the hopeless, the others' order."""
        rung, records = schedule.rungs[number], _records(trials)
        self.reached |= dict.fromkeys(records, rung.last_step)
        self._end_unstable(number, rung.last_step, records)
        stable = {c.name: records[c.name] for c in self.alive}
        if not stable:
            return
        self._rank(f"rung {number + 1}", rung.last_step, stable)
        if number + 1 == len(schedule.rungs):
            self._select()
        else:
            self._halve(schedule.rungs[number + 1].entrants, rung.last_step, stable)

    def summary(self) -> str:
        """Return every verdict in one line."""
        return "; ".join(self.lines())

    def lines(self) -> list[str]:
        """Return the verdicts so far, a line each."""
        return [f"{name}: {v.word}, {v.reason}" for name, v in self.verdicts.items()]

    def _end(self, name: str, word: str, reason: str, numbers: dict[str, Any]) -> None:
        self.verdicts[name] = Verdict(word, reason, numbers)
        self.alive = [candidate for candidate in self.alive if candidate.name != name]

    def _rank(self, name: str, step: int, records: dict[str, list[Record]]) -> None:
        kl = {one: [record.kl(step) for record in some] for one, some in records.items()}
        ordered = order(kl)
        before = self.rounds[-1]["order"] if self.rounds else ordered
        self.rounds.append(
            {
                "name": name,
                "step": step,
                "tokens": step * self._tokens_a_step,
                "order": ordered,
                "kl": kl,
                "kendall_to_round_before": kendall(before, ordered) if self.rounds else None,
            }
        )

    @property
    def _tokens_a_step(self) -> int:
        run = self.config.recovery
        return run.global_batch_size * run.sequence_length

    def _end_unstable(self, number: int, step: int, records: dict[str, list[Record]]) -> None:
        """On the first rung all statistics count, later what ends a run or undoes it."""
        limits, warmup = self.config.judge, self.config.recovery.optim.warmup_iters
        for name, some in records.items():
            found = [
                measure_stability(
                    [loss for _, loss in record.losses(warmup, step if number == 0 else 0)],
                    record.grad_norms(warmup, step if number == 0 else 0),
                    record.kl(0),
                    record.kl(step),
                    limits,
                    record.incident_by(step),
                )
                for record in some
            ]
            if number == 0:
                self.stability[name] = found
            for seed, one in zip(self.config.seeds, found, strict=True):
                if complaint := one.complaint(limits):
                    self._end(
                        name, UNSTABLE, complaint, {"seed": seed, "step": step, **asdict(one)}
                    )
                    break

    def _halve(self, wanted: int, step: int, records: dict[str, list[Record]]) -> None:
        """Let the best go on; of the others say whether they could still have won."""
        ranks, kl = self.rounds[-1]["order"], self.rounds[-1]["kl"]
        hopeless = {
            name: futility
            for name in ranks[1:]
            if (futility := self._futility(name, ranks[0], step, records)) and futility.cannot_win
        }
        able = [name for name in ranks if name not in hopeless]
        last = able[:wanted][-1]
        for name in ranks:
            numbers = {"step": step, "kl": kl[name], "rank": ranks.index(name) + 1}
            if name in hopeless:
                self._end(name, STOPPED, hopeless[name].reason(), numbers | asdict(hopeless[name]))
            elif name not in able[:wanted]:
                self._end(
                    name,
                    STOPPED,
                    f"rank {ranks.index(name) + 1} of {len(ranks)} after step {step:,}: KL "
                    f"{fmean(kl[name]):.4g}, {fmean(kl[last]):.4g} of the last to go on ({last})",
                    numbers | {"last_to_go_on": last, "last_kl": kl[last]},
                )

    def _futility(
        self, name: str, leader: str, step: int, records: dict[str, list[Record]]
    ) -> Futility | None:
        """Compare training losses of the first seed: one text, one order, every step."""
        run = self.config.recovery
        own, theirs = (
            records[one][0].losses(run.optim.warmup_iters, step) for one in (name, leader)
        )
        return measure_futility(own, run.tokens, leader, theirs)

    def _select(self) -> None:
        ranks, kl = self.rounds[-1]["order"], self.rounds[-1]["kl"]
        best, numbers = ranks[0], {"rank": 1, "of": len(ranks), "kl": kl[ranks[0]]}
        self.verdicts[best] = Verdict(
            SELECTED, f"lowest held-out KL at the end, {fmean(kl[best]):.4g}", numbers
        )
        for place, name in enumerate(ranks[1:], start=2):
            self.verdicts[name] = Verdict(
                SUB_OPTIMAL,
                f"KL {fmean(kl[name]):.4g} at the end, {fmean(kl[best]):.4g} of {best}",
                {
                    "rank": place,
                    "of": len(ranks),
                    "kl": kl[name],
                    "selected": best,
                    "selected_kl": kl[best],
                },
            )
        self.alive = [candidate for candidate in self.alive if candidate.name == best]


def _records(trials: Sequence[Trial]) -> dict[str, list[Record]]:
    """Return every candidate's records, in the order of its seeds."""
    found: dict[str, list[Record]] = {}
    for trial in trials:
        found.setdefault(trial.candidate.name, []).append(trial.record())
    return found
