"""``bielik search``: many shapes, short distillations of all, longer ones of the best, one.

One scoring pass and one teacher cache serve all candidates. Every part of the work is a stage that
is skipped when it is done, and every decision is taken from what the trials' metrics say up to the
end of a rung (`trial.py`), so a search that was killed at any moment goes on to the same ranking.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.data.sources import tokens_fingerprint
from nemo_bielik.distill.cache_stage import CacheTeacherConfig
from nemo_bielik.distill.stage import DistillConfig
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.files import atomic_file, write_json
from nemo_bielik.launch.lanes import Lanes
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.site_file import find_site
from nemo_bielik.launch.workers import JobWorkers, LaneWorkers, Workers
from nemo_bielik.pipeline import DISTILL, ENGINE, SCORE
from nemo_bielik.progress import progress
from nemo_bielik.pruning.methods import find_method
from nemo_bielik.pruning.prune import PruneConfig, prune
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.select import PRUNABLE
from nemo_bielik.search.candidates import Candidate
from nemo_bielik.search.config import SearchConfig
from nemo_bielik.search.decisions import Decisions
from nemo_bielik.search.gather import finite, gather, in_words
from nemo_bielik.search.halving import Schedule
from nemo_bielik.search.plan import plan
from nemo_bielik.search.plan_words import plan_in_words
from nemo_bielik.search.tokens_needed import forecast_in_words, forecast_trial
from nemo_bielik.search.trial import Trial

CACHE = "nemo_bielik.distill.cache_stage:cache_teacher"
CUT = "nemo_bielik.search.stage:cut"
TARGETS = {"score": SCORE, "prune": CUT, "cache-teacher": CACHE, "distill": DISTILL}
PAGE, FORECAST = "search.html", "forecast.json"


def describe(config: SearchConfig) -> list[str]:
    """Return the lines that ``--dry-run`` adds: candidates, limits, rungs and their cost."""
    return Search(config).plan_lines()


def search(config: SearchConfig) -> None:
    """Search; write ``search.json`` and ``search.html`` and print the ranking.

    Before the last rung, the dearest, a forecast for the best so far is printed and written to
    ``forecast.json``. With `stop_before_last_rung` the search ends there.

    Raises `DataError` if no candidate is left, for limits or for instability.
    """
    found = Search(config)
    print("\n".join(found.plan_lines()), flush=True)
    with open_workers(config) as workers:
        if config.stop_before_last_rung:
            print("\n".join(found.run(workers).lines()))
            print("stopped before the last rung; without stop_before_last_rung it goes on")
            return
        result = run_search(found, workers)
    print(in_words(result))
    print(f"page: {config.output / PAGE}")


@contextlib.contextmanager
def open_workers(config: SearchConfig) -> Iterator[Workers]:
    """Yield who runs the stages of a search; raises `ConfigError` for a site that cannot."""
    if config.jobs_on is None:
        with Lanes(config.lanes) as lanes:
            lanes.warm(ENGINE)
            yield LaneWorkers(lanes, TARGETS)
        return
    site = find_site(config.jobs_on)
    if isinstance(site, LocalSite):
        raise ConfigError(
            f"jobs_on is {config.jobs_on!r}, this machine; leave it out: stages then run in lanes"
        )
    yield JobWorkers(site, config.output / "jobs")


def run_search(found: "Search", workers: Workers) -> dict[str, Any]:
    """Search, write both files and return the content of ``search.json``."""
    result = gather(found, found.run(workers))
    write_json(found.root / "search.json", result)
    from nemo_bielik.search.page import render

    with atomic_file(found.root / PAGE) as scratch:
        scratch.write_text(render(result), encoding="utf-8")
    return result


def cut(config: PruneConfig) -> None:
    """Prune without what the stage prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        prune(config)


class Search:
    """Where everything lies, and the stages to run."""

    def __init__(self, config: SearchConfig) -> None:
        self.config, self.root = config, config.output
        self.source: ModelArch = Checkpoint.open(config.model).arch.replace(name="source")
        for tokens in (config.calibration, config.train_data, config.validation_data):
            tokens_fingerprint(tokens)
        self.candidates = config.choose(self.source)
        self.refused = {
            candidate.name: reasons
            for candidate in self.candidates
            if (reasons := config.breaches(candidate, self.source))
        }
        self.entered = [c for c in self.candidates if c.name not in self.refused]
        if not self.entered:
            raise ConfigError(
                f"all {len(self.candidates)} candidates break a limit, the first one: "
                f"{next(iter(self.refused.values()))[0].words}; widen limits"
            )
        if config.stop_before_last_rung and len(self.schedule.rungs) < 2:
            raise ConfigError(
                f"stop_before_last_rung is set, and {len(self.entered)} candidates have one rung; "
                "give more candidates, or fewer finalists"
            )

    @property
    def schedule(self) -> Schedule:
        """The rungs for those that train."""
        return self.config.schedule(len(self.entered))

    def plan_lines(self) -> list[str]:
        """Return what will be done and what it costs, a line each."""
        return plan_in_words(plan(self.config, self.source, self.candidates)).splitlines()

    def pruned(self, candidate: Candidate) -> Path:
        """The model right after the cut."""
        return self.root / "pruned" / candidate.arch.name

    def trials(self, candidates: list[Candidate]) -> list[Trial]:
        """Return the trials of some candidates, every seed of each."""
        return [
            Trial(c, seed, self._run(c, seed)) for c in candidates for seed in self.config.seeds
        ]

    def run(self, workers: Workers) -> Decisions:
        """Cut all candidates, train them rung by rung, and decide who goes on.

        With `stop_before_last_rung` several are alive in the end.
        """
        self._prepare(workers)
        decisions = Decisions(self.entered, self.config)
        self.train(self.trials(self.entered), 0, workers, "right after the cut")
        decisions.begin(self.trials(self.entered))
        rungs = self.schedule.rungs
        for number, rung in enumerate(rungs, start=1):
            if number == len(rungs) > 1 and decisions.alive:
                self._tell(decisions)
                if self.config.stop_before_last_rung:
                    break
            alive = decisions.alive
            if alive:
                self.train(self.trials(alive), rung.last_step, workers, f"rung {number}")
                decisions.judge(number - 1, self.schedule, self.trials(alive))
        if not decisions.alive:
            raise DataError(
                f"no candidate was stable: {decisions.summary()}; lower recovery.optim.max_lr"
            )
        return decisions

    def first_trial(self, name: str) -> Trial:
        """Return the trial of a candidate's first seed."""
        return self.trials([one for one in self.candidates if one.name == name])[0]

    def forecast(self, name: str) -> dict[str, Any] | None:
        """Return what a candidate's rungs before the last one predict, if there are any."""
        rungs = self.schedule.rungs
        if len(rungs) < 2:
            return None
        return forecast_trial(self.first_trial(name), rungs[-2].last_step)

    def _tell(self, decisions: Decisions) -> None:
        """Print and write down what the last rung would bring the best so far."""
        leader = decisions.rounds[-1]["order"][0]
        told = self.forecast(leader)
        print("\n".join(forecast_in_words(leader, told)), flush=True)
        verdicts = {name: verdict.row() for name, verdict in decisions.verdicts.items()}
        found = {"leader": leader, "forecast": told, "verdicts": verdicts}
        write_json(self.root / FORECAST, finite({**found, "rounds": decisions.rounds}))

    def train(self, trials: list[Trial], step: int, workers: Workers, what: str) -> None:
        """Bring trials to `step`, side by side where there is room.

        One that the engine stopped has its incident on record; any other error is raised.
        """
        missing = [trial for trial in trials if not trial.is_done(step)]
        bar = progress(total=len(trials), initial=len(trials) - len(missing), desc=what)
        waits = [
            workers.start("distill", trial.part(step), f"{trial.config.output.name}-to-{step}")
            for trial in missing
        ]
        for trial, wait in zip(missing, waits, strict=True):
            self._settle(trial, step, wait)
            bar.update()
        bar.close()

    def _settle(self, trial: Trial, step: int, wait: Callable[[], None]) -> None:
        try:
            wait()
        except DataError:
            if not trial.record().incident_by(step):
                raise

    def _prepare(self, workers: Workers) -> None:
        """Score once, cut every shape, run the teacher once for each order of the text."""
        if find_method(self.config.method).statistics:
            workers.start("score", self._score(), "score")()
        shapes = {candidate.arch.name: candidate for candidate in self.entered}
        cuts = [workers.start("prune", self._cut(c), f"cut-{name}") for name, c in shapes.items()]
        for wait in cuts:
            wait()
        if self.config.teacher == "cached":
            for seed in self.config.seeds:
                workers.start("cache-teacher", self._cache(seed), f"teacher-seed{seed}")()

    def _score(self) -> ScoreConfig:
        run = self.config.recovery
        return ScoreConfig(
            model=self.config.model,
            data=self.config.calibration,
            output=self.root / "scores",
            method=self.config.method,
            samples=self.config.score_samples,
            sequence_length=run.sequence_length,
            micro_batch_size=run.micro_batch_size,
            precision=run.precision,
            parallel=run.parallel,
        )

    def _cut(self, candidate: Candidate) -> PruneConfig:
        sizes = {name: getattr(candidate.arch, name) for name in PRUNABLE}
        return PruneConfig(
            model=self.config.model,
            scores=self.root / "scores" if find_method(self.config.method).statistics else None,
            output=self.pruned(candidate),
            method=self.config.method,
            **{name: size for name, size in sizes.items() if size != getattr(self.source, name)},
        )

    def _cache(self, seed: int) -> CacheTeacherConfig:
        run = self.config.recovery
        return CacheTeacherConfig(
            teacher=self.config.model,
            train_data=[self.config.train_data],
            validation_data=self.config.validation_data,
            output=self.root / "teacher" / f"seed{seed}",
            packing=run.packing,
            iters=run.iters,
            global_batch_size=run.global_batch_size,
            eval_iters=run.eval_iters,
            sequence_length=run.sequence_length,
            seed=seed,
            k=min(self.config.cache_k, self.source.vocab_size),
            micro_batch_size=run.micro_batch_size,
            precision=run.precision,
            parallel=run.parallel,
        )

    def _run(self, candidate: Candidate, seed: int) -> DistillConfig:
        """Return a candidate's whole run."""
        run = self.config.recovery
        optim = run.optim
        if candidate.max_lr is not None:
            share = optim.min_lr / optim.max_lr
            optim = replace(optim, max_lr=candidate.max_lr, min_lr=share * candidate.max_lr)
        settings = replace(
            run, seed=seed, optim=optim, save_interval=run.save_interval or run.eval_interval
        )
        cached = self.config.teacher == "cached"
        return DistillConfig(
            model=self.pruned(candidate),
            teacher=None if cached else self.config.model,
            cache=self._cache(seed).output if cached else None,
            train_data=[self.config.train_data],
            validation_data=self.config.validation_data,
            output=self.root / "trials" / f"{candidate.name}-seed{seed}",
            **settings.fields(),
        )
