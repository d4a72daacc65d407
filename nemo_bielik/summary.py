"""Every figure of a demo run in one object: ``summary.json``."""

import json
import math
import operator
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nemo_bielik.arch import ModelArch
from nemo_bielik.checkpoint import read_config
from nemo_bielik.evaluate.recovery import recovery_percent
from nemo_bielik.manifest import Manifest
from nemo_bielik.planner.parameters import reduction_percent
from nemo_bielik.recovery.of_run import run_intervals
from nemo_bielik.runs import DISTILLED, FROM_SCRATCH, LABEL_TRAINED, PRUNED, TEACHER, Run

if TYPE_CHECKING:
    from nemo_bielik.demo import DemoConfig

MEASURES = ("minimal_pairs_accuracy", "fact_accuracy")
GROUPS = ("by_phenomenon", "by_relation")
_BASELINES = ("baseline-unigram", "baseline-bigram")
Scores = dict[str, Any]


def summarize(config: "DemoConfig", stages: Sequence[Mapping[str, Any]]) -> Scores:
    """Read a finished run's artifacts and return its summary."""
    run = Run(config.output)
    models: Scores = {
        "baseline": _baseline(run),
        TEACHER: _results(run, TEACHER),
        PRUNED: _results(run, PRUNED),
    }
    for way in (DISTILLED, LABEL_TRAINED, FROM_SCRATCH):
        models[way] = _mean([_results(run, f"{way}-seed{n}") | {"seed": n} for n in config.seeds])
    by_measure = {
        name: recovery_by_measure(models[name], models[TEACHER], models["baseline"])
        for name in (PRUNED, DISTILLED, LABEL_TRAINED, FROM_SCRATCH)
    }
    recovered = {name: _mean_recovery(found) for name, found in by_measure.items()}
    reduction = reduction_percent(_arch(run, TEACHER), _arch(run, PRUNED))
    summary = {
        **models,
        "recovery_percent": recovered[DISTILLED],
        "recovery_percent_by_model": recovered,
        "recovery_percent_by_measure": by_measure,
        "intervals_over_items": _intervals(run, config.seeds),
        "params_reduction_percent": reduction,
        "recovery_tokens": config.recovery.tokens,
        "seeds": list(config.seeds),
        "stages": list(stages),
        "label_learning_rates": [_trial(run, rate) for rate in config.label_rates],
    }
    return summary | {"targets": _targets(summary)}


def recovery_by_measure(
    student: Scores, teacher: Scores, baseline: Scores
) -> dict[str, float | None]:
    """Return the percentage of the teacher's score above the baseline; None if it has none."""
    return {
        name: recovery_percent(student[name], teacher[name], baseline[name])
        if teacher[name] > baseline[name]
        else None
        for name in MEASURES
    }


def _intervals(run: Run, seeds: Sequence[int]) -> Scores | None:
    ways = (DISTILLED, LABEL_TRAINED, FROM_SCRATCH)
    evaluations = {PRUNED: [PRUNED]} | {way: [f"{way}-seed{n}" for n in seeds] for way in ways}
    return run_intervals(run, evaluations, _BASELINES, DISTILLED)


def _mean_recovery(by_measure: Mapping[str, float | None]) -> float | None:
    known = [value for value in by_measure.values() if value is not None]
    return statistics.fmean(known) if len(known) == len(MEASURES) else None


def _baseline(run: Run) -> Scores:
    """The better n-gram model on each measure, so that what counts as knowing is not flattered."""
    unigram, bigram = (_results(run, name) for name in _BASELINES)
    best = {name: max(unigram[name], bigram[name]) for name in MEASURES}
    perplexity = min(unigram["perplexity"], bigram["perplexity"])
    return {"perplexity": perplexity, **best, "unigram": unigram, "bigram": bigram}


def _results(run: Run, name: str) -> Scores:
    results: Scores = json.loads((run.evaluation(name) / "results.json").read_text("utf-8"))
    return {name: results[name] for name in ("perplexity", *MEASURES, *GROUPS)}


def _mean(seeds: list[Scores]) -> Scores:
    """Average every figure over seeds."""
    mean: Scores = {
        name: statistics.fmean(s[name] for s in seeds) for name in ("perplexity", *MEASURES)
    }
    for group in GROUPS:
        mean[group] = {
            key: {"accuracy": statistics.fmean(s[group][key]["accuracy"] for s in seeds)}
            for key in seeds[0][group]
        }
    return mean | {"seeds": seeds}


def _arch(run: Run, name: str) -> ModelArch:
    return ModelArch.from_hf_config(read_config(run.model(name)), name)


def _trial(run: Run, rate: float) -> dict[str, float]:
    manifest = Manifest.load(run.model(f"{LABEL_TRAINED}-rate{rate:g}"))
    loss = float(manifest.results["best_validation_loss"])
    return {"learning_rate": rate, "validation_perplexity": math.exp(loss)}


def _targets(summary: Scores) -> list[dict[str, Any]]:
    """What the demo sets out to show, and whether this run showed it."""
    recovered, teacher = summary["recovery_percent_by_model"], summary[TEACHER]
    distilled, controls = recovered[DISTILLED], [recovered[LABEL_TRAINED], recovered[FROM_SCRATCH]]
    known = distilled is not None and None not in controls
    lead = distilled - max(controls) if known else None
    rows: list[tuple[str, str, float, float | None]] = [
        ("teacher: minimal pairs right, %", "≥", 95.0, 100 * teacher[MEASURES[0]]),
        ("teacher: facts right, %", "≥", 90.0, 100 * teacher[MEASURES[1]]),
        ("pruned: share of the teacher above the baseline, %", "<", 75.0, recovered[PRUNED]),
        ("distilled: share of the teacher, %", "≥", 90.0, distilled),
        ("distilled ahead of the better control, points", ">", 0.0, lead),
    ]
    meets: dict[str, Callable[[float, float], bool]] = {
        "≥": operator.ge,
        "<": operator.lt,
        ">": operator.gt,
    }
    return [
        {
            "name": name,
            "wanted": f"{sign} {want:g}",
            "got": got,
            "met": got is not None and meets[sign](got, want),
        }
        for name, sign, want, got in rows
    ]
