"""Estimated step times: what must be true of them whatever the hardware's shares are."""

from dataclasses import replace

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.flops import (
    attention_flops_per_token,
    forward_flops_per_token,
    linear_flops_per_token,
    training_flops_per_token,
)
from nemo_bielik.planner.training_memory import Layout, Workload
from nemo_bielik.planner.training_time import bubble, step_seconds

ONE_GPU, NODE = Cluster.parse("1xH200"), Cluster.parse("8xH200")
ALONE = Layout(tensor=1, pipeline=1, data=1, micro_batch_size=1, sequence=False, recompute=False)
LABELS = Workload(BIELIK_MINITRON_7B, None, 4096, 64)
PAIR = replace(LABELS, teacher=BIELIK_11B_V3)
TOKENS = 4096 * 64


def test_alone_a_gpu_computes_and_nothing_else() -> None:
    flops = TOKENS * training_flops_per_token(BIELIK_MINITRON_7B, 4096)
    assert step_seconds(LABELS, ALONE, ONE_GPU, 0.5) == pytest.approx(flops / (0.5 * 989.4e12))


def test_a_teacher_adds_its_forward_pass() -> None:
    teacher = TOKENS * forward_flops_per_token(BIELIK_11B_V3, 4096) / (0.5 * 989.4e12)
    added = step_seconds(PAIR, ALONE, ONE_GPU, 0.5) - step_seconds(LABELS, ALONE, ONE_GPU, 0.5)
    assert added == pytest.approx(teacher)


def test_recomputation_costs_a_third_more() -> None:
    plain = step_seconds(LABELS, ALONE, ONE_GPU)
    again = step_seconds(LABELS, replace(ALONE, recompute=True), ONE_GPU)
    assert again / plain == pytest.approx(4 / 3)


@pytest.mark.parametrize(("stages", "micro_batches", "share"), [(1, 64, 0), (4, 64, 3 / 67)])
def test_the_bubble_is_the_time_in_which_a_stage_waits(
    stages: int, micro_batches: int, share: float
) -> None:
    layout = replace(ALONE, pipeline=stages)
    assert layout.micro_batches(LABELS) == micro_batches
    assert bubble(LABELS, layout) == pytest.approx(share)


@pytest.mark.parametrize("axis", ["tensor", "pipeline", "data", "context"])
def test_eight_gpus_are_at_most_eight_times_as_fast(axis: str) -> None:
    alone = step_seconds(PAIR, ALONE, ONE_GPU)
    split = step_seconds(PAIR, replace(ALONE, **{axis: 8}), NODE)
    assert alone / 8 < split < alone


def test_context_ranks_send_each_others_keys_and_values() -> None:
    split, grouped = replace(ALONE, context=2), BIELIK_MINITRON_7B
    slow, fast = step_seconds(LABELS, split, NODE, 0.25), step_seconds(LABELS, split, NODE, 0.5)
    # twice the efficiency halves the products: what is left of the time is talk
    # rank 0 has quarters 1 and 4 of a row and looks at 1 + 4 of them, rank 1 at 2 + 3: 5/16 of all
    # pairs each, where a causal mask leaves half of all to both
    forward = split_forward(grouped)
    products = TOKENS * 3 * forward / 2 / (0.5 * 989.4e12)
    assert slow - fast == pytest.approx(products, rel=1e-4)
    more = replace(LABELS, student=grouped.replace(num_query_groups=32))
    heads = split_forward(more.student) / forward * products
    # keys and values of 8 groups in both passes, of 24 more where every head has its own
    rows = 40 * 2 * TOKENS / 2 * 4 * 128 / (0.7 * NODE.device.link_bandwidth)
    added = step_seconds(more, split, NODE, 0.5) - heads - (fast - products)
    weights = 6 * 40 * 2 * 24 * 128 * 4096 / 2 / (0.7 * NODE.device.link_bandwidth)
    assert added == pytest.approx(24 * rows + weights, rel=1e-4)


def split_forward(arch: ModelArch) -> float:
    """FLOPs of a token on average where two ranks share rows."""
    full = attention_flops_per_token(arch, 4096, causal=False)
    return linear_flops_per_token(arch) + 2 * 5 / 16 * full


def test_links_between_nodes_cost_more_than_those_within() -> None:
    layout = replace(ALONE, data=8)
    across = step_seconds(LABELS, layout, Cluster.parse("8x1xH200"))
    assert across > step_seconds(LABELS, layout, NODE)


def test_a_teacher_of_the_students_shape_talks_as_any_other_does() -> None:
    split = replace(ALONE, tensor=4, data=2, sequence=True)
    same = Workload(BIELIK_11B_V3, BIELIK_11B_V3, 4096, 64)
    renamed = replace(same, teacher=BIELIK_11B_V3.replace(name="another"))
    assert step_seconds(same, split, NODE) == step_seconds(renamed, split, NODE)
