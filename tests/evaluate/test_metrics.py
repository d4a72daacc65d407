"""Metrics against independent libraries and by hand; a resample is the metric of repeated items."""

from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef

from nemo_bielik.errors import DataError
from nemo_bielik.evaluate.metrics import METRICS, metric_of

LABELS = st.sampled_from(["neg", "pos", "zero", ""])
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30)
SENTENCES = [
    ("Kot śpi na starym płocie przy domu.", ["Kot śpi na starym płocie koło domu."]),
    ("Ala ma psa i dwa koty.", ["Ala ma kota, psa i rybki.", "Ala ma psa i dwa koty w domu."]),
    ("Rzeka płynie.", ["Rzeka płynie powoli przez las do morza."]),
    ("", ["Nic nie powiedział."]),
]


def classified(pairs: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"reference": reference, "prediction": said} for reference, said in pairs]


def translated(places: list[int]) -> list[dict[str, Any]]:
    return [
        {"prediction": SENTENCES[place][0], "references": SENTENCES[place][1]} for place in places
    ]


def test_a_mean_is_the_default() -> None:
    items = [{"score": 1.0}, {"score": 0.0}, {"score": 0.5}]
    assert metric_of("acc").score(items) == metric_of("mean").score(items) == 0.5
    assert metric_of("acc") is METRICS["mean"]
    assert metric_of("mcc") is METRICS["mcc"]


def test_mcc_and_macro_f1_by_hand() -> None:
    # 6 right of one class, 1 right of the other; 2 and 1 mistaken
    items = classified([("a", "a")] * 6 + [("a", "b")] * 2 + [("b", "a")] + [("b", "b")])
    assert METRICS["mcc"].score(items) == pytest.approx((6 * 1 - 2 * 1) / (8 * 2 * 7 * 3) ** 0.5)
    assert METRICS["macro_f1"].score(items) == pytest.approx((12 / 15 + 2 / 5) / 2)


def test_an_answer_that_is_no_class_misses_and_is_no_class_of_its_own() -> None:
    items = classified([("a", "a")] * 3 + [("b", "b")] * 3 + [("b", "[invalid]")])
    # a: 1; b: precision 1, recall 3/4
    assert METRICS["macro_f1"].score(items) == pytest.approx((1 + 6 / 7) / 2)


@pytest.mark.filterwarnings("ignore:A single label:UserWarning")
@settings(deadline=None)
@given(PAIRS)
def test_mcc_and_macro_f1_are_those_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    real, said = ([pair[side] for pair in pairs] for side in (0, 1))
    items = classified(pairs)
    expected = matthews_corrcoef(real, said)
    assert METRICS["mcc"].score(items) == pytest.approx(expected, abs=1e-12)
    classes = sorted(set(real))
    expected = f1_score(real, said, labels=classes, average="macro", zero_division=0)
    assert METRICS["macro_f1"].score(items) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [0], [2, 2, 1], [3]])
def test_bleu_is_that_of_sacrebleu_over_the_corpus(places: list[int]) -> None:
    predictions = [SENTENCES[place][0] for place in places]
    most = max(len(SENTENCES[place][1]) for place in places)
    references = [
        [(SENTENCES[place][1] + [None] * most)[n] for place in places] for n in range(most)
    ]
    expected = sacrebleu.corpus_bleu(predictions, references).score
    assert METRICS["bleu"].score(translated(places)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", METRICS)
def test_a_resample_is_the_metric_of_the_items_as_often_as_they_were_drawn(name: str) -> None:
    items = [
        item | label | {"score": score}
        for item, label, score in zip(
            translated([0, 1, 2, 3]),
            classified([("a", "a"), ("b", "a"), ("b", "b"), ("c", "b")]),
            [0.0, 1.0, 0.25, 1.0],
            strict=True,
        )
    ]
    if name == "bleu":
        items = translated([0, 1, 2, 3])
    counts = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [0, 2, 1, 1], [0, 0, 3, 1]])
    found = METRICS[name].statistics(items).resampled(counts)
    for row, score in zip(counts, found, strict=True):
        drawn = [item for item, times in zip(items, row, strict=True) for _ in range(times)]
        assert score == pytest.approx(METRICS[name].score(drawn), abs=1e-9)


@pytest.mark.parametrize(
    ("name", "item", "line"),
    [
        ("mean", {"score": None}, "its score is None; it must be a finite number"),
        ("mean", {"score": True}, "its score is True; it must be a finite number"),
        ("mean", {"score": float("nan")}, "its score is nan"),
        ("bleu", {"prediction": "a", "references": []}, "BLEU needs a list of references"),
        ("bleu", {"prediction": None, "references": ["a"]}, "its prediction is None"),
        ("mcc", {"prediction": "a"}, "has no reference; this metric needs one"),
    ],
)
def test_an_item_without_what_the_metric_needs_is_named(
    name: str, item: dict[str, Any], line: str
) -> None:
    with pytest.raises(DataError, match=r"task quiz, item 7: ") as caught:
        METRICS[name].score([{"task": "quiz", "item": "7", **item}])
    assert line in str(caught.value)
