"""Selection: hand-computed tables, brute force over all choices, and what is refused."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch
from nemo_bielik.artifacts import ScoreTable
from nemo_bielik.errors import ConfigError, DataError
from nemo_bielik.pruning.minitron import from_table
from nemo_bielik.pruning.select import Importance, best, keep_everything, select

ARCH = ModelArch(
    name="hand",
    vocab_size=8,
    hidden_size=4,
    ffn_hidden_size=3,
    num_layers=2,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=2,
    rms_norm_eps=1e-5,
)


def hand_table() -> ScoreTable:
    """Sums of squares whose roots are whole numbers, so that the right answer is seen by eye."""
    return ScoreTable(
        arch=ARCH,
        # roots: 9 0 4 4 / 0 5 4 4 / 0 5 4 4 / 0 0 0 1; summed: 9 10 12 13. Without the roots
        # the sums are 81 50 48 49 and channel 0 would win: the norm is per normalisation.
        hidden=np.array([[81, 0, 16, 16], [0, 25, 16, 16], [0, 25, 16, 16], [0, 0, 0, 1]], float),
        ffn=np.array([[1, 9, 4], [1, 1, 1]], float),
        # layer 0, roots: group 0 = 5 + 0, group 1 = 3 + 3: squares (25, 18) would say group 0
        # layer 1: group 0 = 1 + 2, group 1 = 1 + 1
        heads=np.array([[25, 0, 9, 9], [1, 4, 1, 1]], float),
        cosine=np.array([9.0, 2.0]),
        samples=1,
        tokens=10,
        model="fingerprint",
    )


def test_hidden_channels_sum_the_norms_of_every_normalisation():
    plan = select(from_table(hand_table()), ARCH.replace(hidden_size=2))
    assert plan.hidden == [2, 3]


def test_ffn_channels_are_chosen_per_layer_and_ties_keep_the_lower_index():
    plan = select(from_table(hand_table()), ARCH.replace(ffn_hidden_size=2))
    assert plan.ffn == [[1, 2], [0, 1]]


def test_the_layer_that_changes_least_goes():
    plan = select(from_table(hand_table()), ARCH.replace(num_layers=1))
    assert plan.layers == [1]  # cosine 0.9 against 0.2
    assert plan.heads == [[0, 1, 2, 3]]


def test_heads_are_ranked_within_their_query_group():
    plan = select(from_table(hand_table()), ARCH.replace(num_attention_heads=2))
    assert plan.groups == [[0, 1], [0, 1]]
    assert plan.heads == [[0, 2], [1, 2]]


def test_query_groups_are_ranked_by_the_sum_of_their_heads():
    plan = select(from_table(hand_table()), ARCH.replace(num_attention_heads=2, num_query_groups=1))
    assert plan.groups == [[1], [0]]
    assert plan.heads == [[2, 3], [0, 1]]


def test_eps_follows_the_hidden_size_only_with_rescaling():
    target = ARCH.replace(hidden_size=2)
    assert select(from_table(hand_table()), target).target.rms_norm_eps == pytest.approx(2e-5)
    assert select(from_table(hand_table()), target, rescale_norms=False).target.rms_norm_eps == 1e-5
    assert select(from_table(hand_table()), ARCH.replace(num_layers=1)).target.rms_norm_eps == 1e-5


def test_the_whole_model_selects_everything(random_scores):
    assert select(from_table(hand_table()), ARCH) == keep_everything(ARCH, "fingerprint")


def test_every_candidate_of_the_report_is_reachable(random_scores):
    scores = random_scores(BIELIK_11B_V3)
    for target in EXPERIMENTS.values():
        plan = select(from_table(scores), target)
        assert len(plan.layers) == len(plan.ffn) == target.num_layers
        assert {len(kept) for kept in plan.ffn} == {target.ffn_hidden_size}
        assert len(plan.hidden) == target.hidden_size


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 4), min_size=1, max_size=7), data=st.data())
def test_best_equals_the_first_of_the_heaviest_subsets(values, data):
    count = data.draw(st.integers(1, len(values)))
    subsets = itertools.combinations(range(len(values)), count)  # in lexicographic order
    heaviest = max(subsets, key=lambda chosen: sum(values[index] for index in chosen))
    assert best(np.array(values, float), count) == list(heaviest)


@settings(max_examples=25, deadline=None)
@given(
    per_group=st.integers(1, 3), groups=st.integers(1, 4), seed=st.integers(0, 99), data=st.data()
)
def test_heads_equal_brute_force_over_all_uniform_choices(per_group, groups, seed, data):
    kept_groups = data.draw(st.integers(1, groups))
    kept_per_group = data.draw(st.integers(1, per_group))
    arch = ARCH.replace(num_attention_heads=groups * per_group, num_query_groups=groups)
    roots = np.random.default_rng(seed).uniform(0, 1, (2, arch.num_attention_heads))
    table = replace(hand_table(), arch=arch, heads=roots**2)
    plan = select(
        from_table(table),
        arch.replace(
            num_attention_heads=kept_groups * kept_per_group, num_query_groups=kept_groups
        ),
    )
    for layer in range(2):
        by_group = roots[layer].reshape(groups, per_group)
        heaviest = max(
            itertools.combinations(range(groups), kept_groups),
            key=lambda chosen: sum(by_group[group].sum() for group in chosen),
        )
        assert plan.groups[layer] == list(heaviest)
        for group in heaviest:
            members = range(group * per_group, (group + 1) * per_group)
            best_heads = max(
                itertools.combinations(members, kept_per_group),
                key=lambda chosen: sum(roots[layer][head] for head in chosen),
            )
            assert [h for h in plan.heads[layer] if h in members] == list(best_heads)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layers": 3}, ["num_layers is 3", "at most", "2"]),
        ({"hidden_size": 8}, ["hidden_size is 8", "at most", "4"]),
        ({"ffn_hidden_size": 9}, ["ffn_hidden_size is 9"]),
        ({"num_attention_heads": 8}, ["num_attention_heads is 8"]),
        ({"num_query_groups": 4}, ["num_query_groups is 4"]),
        ({"num_query_groups": 1}, ["4 a group", "groups have 2", "raise num_query_groups"]),
        ({"vocab_size": 4}, ["vocab_size is 4", "the model has 8", "pruning changes only"]),
        ({"head_dim": 4}, ["head_dim is 4"]),
        ({"model_type": "llama"}, ["model_type is 'llama'", "'mistral'"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings"]),
    ],
)
def test_an_unreachable_target_is_refused_in_one_line(changes, words):
    with pytest.raises(ConfigError) as caught:
        select(from_table(hand_table()), ARCH.replace(**changes))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="multiple"):
        ARCH.replace(num_attention_heads=3)


def test_a_size_that_nothing_ranks_cannot_be_cut():
    only_layers = Importance(arch=ARCH, layers=np.array([1.0, 2.0]))
    assert select(only_layers, ARCH.replace(num_layers=1)).layers == [1]
    for change in ({"hidden_size": 2}, {"ffn_hidden_size": 1}, {"num_attention_heads": 2}):
        with pytest.raises(ConfigError, match="does not rank") as caught:
            select(only_layers, ARCH.replace(**change))
        assert "\n" not in str(caught.value)


def test_groups_of_their_own_rank_before_the_sum_of_heads():
    importance = replace(from_table(hand_table()), groups=np.array([[2.0, 1.0], [1.0, 2.0]]))
    plan = select(importance, ARCH.replace(num_attention_heads=2, num_query_groups=1))
    assert plan.groups == [[0], [1]]


def test_layers_can_be_chosen_elsewhere():
    plan = select(from_table(hand_table()), ARCH.replace(num_layers=1), layers=[0])
    assert plan.layers == [0]
    assert len(plan.ffn) == 1


@pytest.mark.parametrize("wrong", [np.ones(3), np.array([1.0, np.nan])])
def test_importance_of_another_shape_or_no_number_is_refused(wrong):
    with pytest.raises(DataError, match="importance of layers"):
        Importance(arch=ARCH, layers=wrong)
