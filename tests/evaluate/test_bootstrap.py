"""The bootstrap by enumeration, against scipy's, and by how often it holds the truth."""

from typing import Any

import numpy as np
import pytest
import scipy.stats

from nemo_bielik.errors import ConfigError
from nemo_bielik.evaluate import bootstrap as module
from nemo_bielik.evaluate.bootstrap import Bootstrap, Estimate
from nemo_bielik.evaluate.metrics import METRICS, ItemStatistics


def answers(right: Any) -> ItemStatistics:
    """Return the statistics of items that were answered right (1) or wrong (0)."""
    return METRICS["mean"].statistics([{"score": float(one)} for one in right])


def ratio_interval(bootstrap: Bootstrap, teacher: Any, student: Any) -> tuple[float, float] | None:
    one, other = bootstrap.estimates("quiz", [answers(teacher), answers(student)])
    return bootstrap.interval(other.recovery(one))


def test_replicates_have_the_distribution_of_every_possible_draw() -> None:
    """Of two items there are four draws: both, twice the one, twice the other."""
    bootstrap = Bootstrap(resamples=8000)
    (student,) = bootstrap.estimates("quiz", [answers([1, 0])])
    shares = [np.mean(student.replicates == value) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    assert bootstrap.interval(student) == (0.0, 1.0)


def test_models_are_scored_on_the_same_draws() -> None:
    bootstrap = Bootstrap()
    one, other = bootstrap.estimates("quiz", [answers([1, 0, 1]), answers([0, 1, 0])])
    assert np.allclose(one.replicates + other.replicates, 1.0)
    assert bootstrap.interval(one + other) == pytest.approx((1.0, 1.0))


def test_what_is_drawn_depends_on_seed_and_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    right = [answers([1, 0, 1, 1, 0])]
    first = Bootstrap(seed=3).estimates("quiz", right)[0].replicates
    assert (Bootstrap(seed=3).estimates("quiz", right)[0].replicates == first).all()
    assert (Bootstrap(seed=4).estimates("quiz", right)[0].replicates != first).any()
    assert (Bootstrap(seed=3).estimates("exam", right)[0].replicates != first).any()
    monkeypatch.setattr(module, "_COUNTS_AT_ONCE", 35)  # seven rows a block, the last one smaller
    blocks = list(Bootstrap(resamples=100).draws("quiz", 5))
    assert [len(block) for block in blocks] == [7] * 14 + [2]
    assert all((block.sum(axis=1) == 5).all() for block in blocks)


def test_the_interval_is_that_of_scipy() -> None:
    generator = np.random.default_rng(5)
    teacher = generator.random(150) < 0.8
    student = np.where(generator.random(150) < 0.8, teacher, generator.random(150) < 0.5)
    own = ratio_interval(Bootstrap(resamples=9000), teacher, student)
    theirs = scipy.stats.bootstrap(
        (teacher.astype(float), student.astype(float)),
        lambda t, s, axis: 100 * s.mean(axis=axis) / t.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=9000,
        method="percentile",
        rng=np.random.default_rng(6),
    ).confidence_interval
    assert own == pytest.approx(tuple(theirs), abs=0.35)  # both ends are random to about ±0.15


def simulated(generator: np.random.Generator, items: int) -> tuple[Any, Any]:
    """Return answers of a pair whose true recovery is 100 · (0.8 · 0.85 + 0.2 · 0.3) / 0.8."""
    teacher = generator.random(items) < 0.8
    chance = np.where(teacher, 0.85, 0.3)
    return teacher, generator.random(items) < chance


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """400 simulated pairs: 95 % intervals hold 92.5 in 92 to 98 % of them, 80 % ones do not.

    The share's own standard deviation is 1.1 points, so the bounds are about three away. Drawing
    the two models apart, the usual mistake, gives intervals that hold it nearly always.
    """
    generator, truth = np.random.default_rng(2), 92.5
    shares = {"paired": 0, "narrow": 0, "apart": 0}
    for _ in range(400):
        teacher, student = map(answers, simulated(generator, 200))
        seed = int(generator.integers(2**31))
        paired = Bootstrap(600, 0.95, seed)
        one, other = paired.estimates("a", [teacher, student])
        alone = paired.estimates("b", [student])[0]
        for name, bootstrap, score in (
            ("paired", paired, other),
            ("narrow", Bootstrap(600, 0.8, seed), other),
            ("apart", paired, alone),
        ):
            low, high = bootstrap.interval(score.recovery(one)) or (0.0, 0.0)
            shares[name] += low <= truth <= high
    assert 0.92 <= shares["paired"] / 400 <= 0.98
    assert shares["narrow"] / 400 < 0.87
    assert shares["apart"] / 400 > 0.98


def population(metric: str) -> tuple[ItemStatistics, ItemStatistics]:
    """Return 600 items of a teacher and of a student that mostly answers as it does."""
    generator = np.random.default_rng(8)
    length = 9 if metric == "bleu" else 1
    reference = generator.choice(3, size=(600, length), p=[0.5, 0.3, 0.2])
    wrong = generator.random((600, length)) < 0.3
    teacher = np.where(wrong, generator.integers(3, size=reference.shape), reference)
    forgotten = generator.random((600, length)) < 0.08
    student = np.where(forgotten, generator.integers(3, size=reference.shape), teacher)

    def statistics(answers: Any) -> ItemStatistics:
        texts = [[" ".join(map(str, row)) for row in rows] for rows in (reference, answers)]
        return METRICS[metric].statistics(
            [
                {"reference": r, "references": [r], "prediction": p, "score": float(r == p)}
                for r, p in zip(*texts, strict=True)
            ]
        )

    return statistics(teacher), statistics(student)


@pytest.mark.parametrize("metrics", [["bleu"], ["mcc"], ["mean", "macro_f1", "mcc"]])
def test_intervals_of_corpus_metrics_and_of_suites_hold_the_truth(metrics: list[str]) -> None:
    """Test sets drawn from a population, whose own recovery is the truth; the mean of ratios.

    Of 200 pairs the share's standard deviation is 1.5 points. Again 80 % intervals do not hold the
    truth often enough, and those of models that are drawn apart hold it nearly always.
    """
    populations = [population(metric) for metric in metrics]
    truth = np.mean([100 * student.score / teacher.score for teacher, student in populations])
    generator = np.random.default_rng(3)
    shares = {"paired": 0, "narrow": 0, "apart": 0}
    for number in range(200):
        paired, narrow = (Bootstrap(200, share, number) for share in (0.95, 0.8))
        ratios, apart = [], []
        for metric, models in zip(metrics, populations, strict=True):
            rows = generator.integers(600, size=120)
            sample = [model.take(rows) for model in models]
            one, other = paired.estimates(metric, sample)
            ratios.append(other.recovery(one))
            apart.append(paired.estimates(f"{metric} alone", sample[1:])[0].recovery(one))
        for name, bootstrap, parts in (
            ("paired", paired, ratios),
            ("narrow", narrow, ratios),
            ("apart", paired, apart),
        ):
            low, high = bootstrap.interval(Estimate.mean(parts)) or (0.0, 0.0)
            shares[name] += low <= truth <= high
    assert 0.9 <= shares["paired"] / 200 <= 0.985, shares
    assert shares["narrow"] / 200 < 0.88, shares
    assert shares["apart"] / 200 > 0.985, shares


def test_there_is_no_interval_where_a_draw_leaves_the_teacher_nothing() -> None:
    assert ratio_interval(Bootstrap(), [1, 0, 0], [1, 1, 0]) is None
    assert ratio_interval(Bootstrap(), [1, 1, 1], [1, 1, 0]) == pytest.approx((0.0, 100.0))


def test_means_and_differences_go_replicate_by_replicate() -> None:
    one, other = Estimate(1.0, np.array([0.0, 2.0])), Estimate(3.0, np.array([4.0, 2.0]))
    assert Estimate.mean([one, other]).value == 2.0
    assert Estimate.mean([one, other]).replicates.tolist() == [2.0, 2.0]
    assert (other - one).replicates.tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"resamples": 99}, "resamples is 99; an interval needs at least 100"),
        ({"confidence": 95.0}, "confidence is 95.0; it must lie between 0 and 1"),
    ],
)
def test_settings_that_give_no_interval_are_refused(settings: Any, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        Bootstrap(**settings)
