"""Orders, fronts and how sure they are, by hand."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_bielik.search.ranking import kendall, leads, order, pareto_front


def test_the_lowest_mean_comes_first_and_no_number_last():
    assert order({"a": [2.0, 4.0], "b": [float("nan"), 0.0], "c": [1.0, 1.5], "d": [3.0, 3.0]}) == [
        *"cadb"
    ]


def test_leads_are_paired_by_seed():
    # differences 0.1, 0.2, 0.3: mean 0.2, standard error 0.1 / √3, t of two degrees 4.303
    (lead,) = leads({"a": [1.0, 2.0, 3.0], "b": [1.1, 2.2, 3.3]})
    assert (lead.name, lead.is_level) == ("b", True)
    assert lead.mean == pytest.approx(0.2)
    assert lead.margin == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    (clear,) = leads({"a": [1.0, 2.0, 3.0], "b": [1.5, 2.51, 3.49]})
    assert clear.is_level is False


def test_one_seed_says_nothing_of_its_own_noise():
    (lead,) = leads({"a": [1.0], "b": [1.5]})
    assert (lead.margin, lead.is_level) == (None, None)


@given(
    st.dictionaries(
        st.text(max_size=3), st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=8
    )
)
def test_the_front_is_what_nothing_beats(figures):
    front = pareto_front(figures)
    assert front

    def beats(one, other):
        return all(a <= b for a, b in zip(one, other, strict=True)) and one != other

    for name in figures:
        assert (name not in front) == any(beats(figures[o], figures[name]) for o in figures)


def test_kendall_counts_pairs():
    assert kendall("abcd", "abcd") == 1.0
    assert kendall("abcd", "dcba") == -1.0
    assert kendall("abcd", "bacd") == pytest.approx((5 - 1) / 6)
    assert kendall("abcd", "ca") == -1.0  # of the two that both hold
    assert kendall("ab", "c") == 1.0


@given(st.permutations("abcde"))
def test_kendall_agrees_with_its_definition(second):
    pairs = list(itertools.combinations("abcde", 2))
    agreeing = sum(second.index(a) < second.index(b) for a, b in pairs)
    assert kendall("abcde", second) == pytest.approx((2 * agreeing - len(pairs)) / len(pairs))
