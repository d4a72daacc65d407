"""How often the interval of a recovery holds the truth, of a mean, a corpus metric and a suite.

Pairs of models are simulated whose true recovery is known. On accuracies each gets an interval by
our paired bootstrap and by scipy's BCa, paired too, with the same resamples' number. BLEU, macro
F1, MCC and suites of tasks get ours: a test set is drawn from a population of items, and the truth
is the recovery on the whole population. Eight languages that ask the same questions get theirs from
shared draws, as `bielik recovery` makes them, and from draws of their own, which is what it would
be to take them for independent tasks. All intervals say 95 %.

    python benchmarks/bootstrap_coverage.py --json
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.evaluate.metrics import METRICS, ItemStatistics
from nemo_bielik.planner.table import align
from nemo_bielik.recovery.aggregation import MEAN_OF_RATIOS, RATIO_OF_MEANS, SUITE, Cell, Group

#: Items, teacher's accuracy, student's where the teacher is right, and where it is wrong.
CASES = (
    (30, 0.8, 0.85, 0.3),
    (100, 0.8, 0.85, 0.3),
    (400, 0.8, 0.85, 0.3),
    (100, 0.95, 0.95, 0.5),
    (100, 0.3, 0.6, 0.1),
)
#: Items of a population: sentences or questions from which test sets are drawn.
POPULATION = 5000


@dataclass(frozen=True)
class Population:
    """The items of a task, very many, with what each adds to the scores of teacher and student."""

    metric: str
    teacher: ItemStatistics
    student: ItemStatistics

    def truth(self) -> Cell:
        """Return the scores on the whole population."""
        one, other = (Estimate(model.score, np.empty(0)) for model in (self.teacher, self.student))
        return Cell(self.metric, self.metric, POPULATION, None, one, other)

    def measured(self, rows: Any, draws: str, bootstrap: Bootstrap) -> Cell:
        """Return the scores on the test set `rows`, with the replicates of the draws so called."""
        sample = [self.teacher.take(rows), self.student.take(rows)]
        one, other = bootstrap.estimates(draws, sample)
        return Cell(draws, self.metric, len(rows), None, one, other)


def classification(metric: str, classes: Sequence[float], right: float, seed: int) -> Population:
    """Return questions of classes that are as frequent as `classes` says.

    The teacher is right in the share `right`. The student answers as it does in 70 %, and is right
    in `right` of the others.
    """
    generator = np.random.default_rng(seed)
    reference = generator.choice(len(classes), size=POPULATION, p=classes)

    def answers() -> Any:
        guessed = generator.integers(len(classes), size=POPULATION)
        return np.where(generator.random(POPULATION) < right, reference, guessed)

    teacher = answers()
    student = np.where(generator.random(POPULATION) < 0.7, teacher, answers())
    student = np.where(generator.random(POPULATION) < 0.9, student, 0)  # it prefers the first class
    return Population(metric, *[_answered(metric, reference, one) for one in (teacher, student)])


def _answered(metric: str, reference: Any, prediction: Any) -> ItemStatistics:
    pairs = zip(reference.tolist(), prediction.tolist(), strict=True)
    return METRICS[metric].statistics(
        [{"reference": r, "prediction": p, "score": float(r == p)} for r, p in pairs]
    )


def translation() -> Population:
    """Return sentences of 6 to 30 words in which a model gets some words wrong, more in hard ones.

    The student writes each word as the teacher does in 70 %, and errs more often in the others.
    """
    generator = np.random.default_rng(3)
    frequency = 1 / np.arange(1, 301)
    kept: list[list[dict[str, Any]]] = [[], []]
    for length in generator.integers(6, 31, size=POPULATION).tolist():
        reference, *others = generator.choice(300, size=(3, length), p=frequency / frequency.sum())
        wrong = generator.beta(1.5, 3.5)
        teacher = np.where(generator.random(length) < wrong, others[0], reference)
        own = np.where(generator.random(length) < min(1.0, 1.6 * wrong), others[1], reference)
        student = np.where(generator.random(length) < 0.7, teacher, own)
        for items, words in zip(kept, (teacher, student), strict=True):
            items.append({"prediction": _text(words), "references": [_text(reference)]})
    return Population("bleu", *[METRICS["bleu"].statistics(items) for items in kept])


def languages(count: int) -> list[Population]:
    """Return the same questions in many languages: a model mostly knows the passage or does not.

    A question has a difficulty that all share; the student has also forgotten some passages, and
    then guesses in every language.
    """
    generator = np.random.default_rng(4)
    chance = generator.beta(4, 1, size=POPULATION)
    forgotten = generator.random(POPULATION) < 0.2
    found = []
    for _ in range(count):
        teacher = generator.random(POPULATION) < chance
        guessed = generator.random(POPULATION) < 0.25
        student = np.where(forgotten, guessed, generator.random(POPULATION) < chance)
        scores = [[{"score": float(one)} for one in model] for model in (teacher, student)]
        found.append(Population("mean", *map(METRICS["mean"].statistics, scores)))
    return found


def _text(words: Any) -> str:
    return " ".join(f"w{word}" for word in words)


@dataclass(frozen=True)
class Simulated:
    """Tasks, how they are put together, and whether questions and draws are the same for all."""

    tasks: list[Population]
    aggregation: str = RATIO_OF_MEANS
    same_questions: bool = False
    same_draws: bool = False


def simulated() -> dict[str, Simulated]:
    """Return what is measured, by name."""
    suite = [
        classification("mean", [0.25] * 4, 0.8, seed=5),
        classification("mean", [0.5, 0.5], 0.6, seed=6),
        classification("macro_f1", [0.7, 0.3], 0.6, seed=7),
        classification("mcc", [0.6, 0.4], 0.7, seed=8),
    ]
    return {
        "BLEU": Simulated([translation()]),
        "macro F1": Simulated([classification("macro_f1", [0.6, 0.3, 0.1], 0.7, seed=1)]),
        "MCC": Simulated([classification("mcc", [0.7, 0.3], 0.7, seed=2)]),
        "four tasks, ratio of means": Simulated(suite),
        "four tasks, mean of ratios": Simulated(suite, MEAN_OF_RATIOS),
        "eight languages": Simulated(languages(8), same_questions=True, same_draws=True),
        "eight languages, drawn apart": Simulated(languages(8), same_questions=True),
    }


def measure_suite(
    name: str, what: Simulated, items: int, pairs: int, resamples: int
) -> dict[str, Any]:
    """Return how often the interval of these tasks' recovery holds that of their populations."""
    truth = _recovery([task.truth() for task in what.tasks], what.aggregation).value
    generator = np.random.default_rng(items)
    held, width = 0, 0.0
    for number in range(pairs):
        bootstrap = Bootstrap(resamples, 0.95, number)
        test_sets = generator.integers(POPULATION, size=(len(what.tasks), items))
        cells = [
            task.measured(
                test_sets[0 if what.same_questions else place],
                f"task {0 if what.same_draws else place}",
                bootstrap,
            )
            for place, task in enumerate(what.tasks)
        ]
        low, high = bootstrap.interval(_recovery(cells, what.aggregation)) or (np.nan, np.nan)
        held += bool(low <= truth <= high)
        width += (high - low) / pairs
    return {
        "measure": name,
        "items_a_task": items,
        "true_recovery_percent": round(truth, 2),
        "percentile_covers_percent": round(100 * held / pairs, 1),
        "percentile_mean_width": round(width, 2),
    }


def _recovery(cells: list[Cell], aggregation: str) -> Estimate:
    found = Group(SUITE, "simulated", "simulated", cells).recovery(aggregation).plain
    assert found is not None, "a simulated teacher scores something"
    return found


def measure(case: tuple[int, float, float, float], pairs: int, resamples: int) -> dict[str, Any]:
    """Return the shares of intervals that hold the truth, and their mean widths in points."""
    items, accuracy, if_right, if_wrong = case
    truth = 100 * (accuracy * if_right + (1 - accuracy) * if_wrong) / accuracy
    generator = np.random.default_rng(items)
    held = {"percentile": 0, "BCa": 0}
    width = dict.fromkeys(held, 0.0)
    without = 0
    for number in range(pairs):
        teacher = generator.random(items) < accuracy
        student = generator.random(items) < np.where(teacher, if_right, if_wrong)
        ends = {
            "percentile": _ours(teacher, student, Bootstrap(resamples, 0.95, number)),
            "BCa": _scipy(teacher, student, resamples, number),
        }
        for name, interval in ends.items():
            if interval is None or not np.isfinite(interval).all():
                without += name == "BCa"
                continue
            held[name] += interval[0] <= truth <= interval[1]
            width[name] += interval[1] - interval[0]
    return {
        "items": items,
        "teacher_accuracy": accuracy,
        "true_recovery_percent": round(truth, 2),
        **{f"{name}_covers_percent": round(100 * held[name] / pairs, 1) for name in held},
        **{f"{name}_mean_width": round(width[name] / pairs, 2) for name in held},
        "without_BCa": without,
    }


def _ours(teacher: Any, student: Any, bootstrap: Bootstrap) -> tuple[float, float] | None:
    statistics = [
        METRICS["mean"].statistics([{"score": float(one)} for one in scores])
        for scores in (teacher, student)
    ]
    one, other = bootstrap.estimates("coverage", statistics)
    return bootstrap.interval(other.recovery(one))


def _scipy(teacher: Any, student: Any, resamples: int, seed: int) -> tuple[float, float]:
    found = scipy.stats.bootstrap(
        (teacher.astype(float), student.astype(float)),
        lambda t, s, axis: 100 * s.mean(axis=axis) / t.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=400, help="simulated pairs a case")
    parser.add_argument("--resamples", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=RuntimeWarning)  # pairs that give no BCa: counted
    settings = {"pairs": options.pairs, "resamples": options.resamples}
    rows = [measure(case, **settings) for case in CASES]
    others = [
        measure_suite(name, what, items, **settings)
        for name, what in simulated().items()
        for items in (100, 400)
    ]
    if options.json:
        print(json.dumps({**settings, "rows": rows, "other_metrics": others}))
        return
    for table in (rows, others):
        head = list(table[0])
        print(align(head, [[str(row[name]) for name in head] for row in table]), end="\n\n")


if __name__ == "__main__":
    main()
