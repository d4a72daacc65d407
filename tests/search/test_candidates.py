"""Shapes to try: legal, within limits, and spread."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, preset
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.memory import kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import count_one_embedding
from nemo_bielik.pruning.select import PRUNABLE, check_target
from nemo_bielik.recipes import minitron_7b
from nemo_bielik.search.candidates import (
    Generation,
    coordinates,
    farthest,
    generate,
    paper,
    resolve,
    shape_name,
    shapes,
)
from nemo_bielik.search.limits import Limits, breaches, cost, hours

RUN = minitron_7b.recovery()
SOURCE = preset("tiny-bielik-11b-v3").replace(name="source")
POINTS = st.lists(
    st.tuples(*[st.floats(0, 1, allow_nan=False)] * 2), min_size=4, max_size=9, unique=True
)


def test_the_reports_ten_are_its_table_2():
    found = paper(BIELIK_11B_V3)
    assert [candidate.name for candidate in found] == list(EXPERIMENTS)
    for candidate in found:
        assert candidate.arch == EXPERIMENTS[candidate.name]


def test_of_another_original_its_ten_have_the_reports_proportions():
    found = {candidate.name: candidate.arch for candidate in paper(SOURCE)}
    assert (found["exp-010"].num_layers, found["exp-010"].ffn_hidden_size) == (8, 350)
    assert found["exp-001"].hidden_size == 96  # 128 × 3/4
    assert found["exp-007"].hidden_size == 112  # 114, to a multiple of 4
    for arch in found.values():
        check_target(SOURCE, arch)


def test_specs_name_shapes_and_rates():
    first, second = resolve(
        ["source:num_layers=8,ffn_hidden_size=320", "source:num_layers=7@max_lr=0.5"], SOURCE
    )
    assert (first.name, first.max_lr) == ("layers8-ffn320", None)
    assert first.arch == SOURCE.replace(name="layers8-ffn320", num_layers=8, ffn_hidden_size=320)
    assert (second.name, second.max_lr) == ("layers7-lr0.5", 0.5)
    assert shape_name(SOURCE, SOURCE) == "whole"


@pytest.mark.parametrize(
    ("specs", "said"),
    [
        (["source:num_layers=99"], "num_layers is 99; it can be at most the model's 10"),
        (["source:num_layers=8"] * 2, "names layers8 twice"),
        (["source:num_layers=8@rate=3"], "write @max_lr=3e-4"),
        (["source:num_layers=8@max_lr=-1"], "max_lr is -1.0; it must be finite and above 0"),
        (["source:ffn_hidden_size=35"], "ffn_hidden_size is 35; the engine trains even ones only"),
        (["source:num_layers=10"], "cuts nothing"),
        (["nothing"], "neither a preset nor a model directory"),
    ],
)
def test_specs_that_cannot_be_are_one_line(specs: list[str], said: str):
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(specs, SOURCE)
    assert "\n" not in str(caught.value)


@settings(max_examples=12, deadline=None)
@given(
    low=st.floats(0.45, 0.7),
    band=st.floats(0.1, 0.3),
    multiple=st.sampled_from([8, 16]),
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 2]),
    memory=st.sampled_from([0.0, 0.0022]),
    milliseconds=st.sampled_from([0.0, 0.0007]),
)
def test_no_limit_is_ever_broken(low, band, multiple, tensor, pipeline, memory, milliseconds):
    whole = count_one_embedding(SOURCE)
    limits = Limits(
        min_parameters=low * whole,
        max_parameters=(low + band) * whole,
        max_memory_gb=memory,
        max_milliseconds=milliseconds,
        context=256,
    )
    wanted = Generation(count=8, multiple=multiple, tensor=tensor, pipeline=pipeline)
    try:
        found = generate(SOURCE, limits, wanted, RUN)
    except ConfigError as error:
        assert "within limits" in str(error)
        return
    assert len({candidate.arch.replace(name="") for candidate in found}) == 8
    for candidate in found:
        arch = candidate.arch
        check_target(SOURCE, arch)
        assert low * whole <= count_one_embedding(arch) <= (low + band) * whole
        for size in ("num_attention_heads", "num_query_groups", "ffn_hidden_size", "hidden_size"):
            assert getattr(arch, size) % tensor == 0
        assert arch.num_layers % pipeline == 0
        assert arch.ffn_hidden_size % multiple == arch.hidden_size % multiple == 0
        kept = weights_bytes(arch, "bf16") + kv_cache_bytes(arch, "bf16", 256)
        assert not memory or kept <= memory * 1e9
        assert not milliseconds or cost(arch, limits).seconds_per_token <= milliseconds / 1e3


def test_a_limit_that_nothing_keeps_to_is_one_line():
    with pytest.raises(ConfigError, match="only 0 shapes of source are within limits"):
        generate(SOURCE, Limits(max_parameters=10), Generation(multiple=8), RUN)


@settings(max_examples=60, deadline=None)
@given(points=POINTS, count=st.integers(2, 4))
def test_the_choice_is_at_least_half_as_spread_as_the_best(points, count):
    """Gonzalez' bound, against every choice of as many that holds the same first point."""
    array = np.array(points)
    chosen = farthest(array, count)
    assert len(set(chosen)) == count

    def spread(rows: Any) -> float:
        return min(
            float(np.linalg.norm(array[a] - array[b])) for a, b in itertools.combinations(rows, 2)
        )

    best = max(map(spread, itertools.combinations(range(len(points)), count)))
    # Gonzalez: among count points and the next farthest two are within the covering radius
    assert spread(chosen) >= best / 2 - 1e-9


def test_the_list_covers_every_size():
    whole = count_one_embedding(SOURCE)
    limits = Limits(min_parameters=0.5 * whole, max_parameters=0.75 * whole)
    chosen = generate(SOURCE, limits, Generation(multiple=8, count=10), RUN)
    found = coordinates([candidate.arch for candidate in chosen], SOURCE)
    for column, name in enumerate(PRUNABLE):
        assert len(set(found[:, column])) > 1, name
    # far more spread than ten neighbours of one corner
    everything = [
        a for a in shapes(SOURCE, Generation(multiple=8)) if not breaches(a, SOURCE, limits, RUN)
    ]
    grid = coordinates(everything, SOURCE)
    nearest = grid[np.argsort(np.linalg.norm(grid - grid[0], axis=1))[:10]]

    def spread(points: Any) -> float:
        return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))

    assert spread(found) > 3 * spread(nearest)


def test_sizes_that_may_not_be_cut_stay():
    limits = Limits(max_parameters=0.8 * count_one_embedding(SOURCE))
    for candidate in generate(
        SOURCE, limits, Generation(multiple=8, count=5, vary=["num_layers", "ffn_hidden_size"]), RUN
    ):
        changed = [n for n in PRUNABLE if getattr(candidate.arch, n) != getattr(SOURCE, n)]
        assert set(changed) <= {"num_layers", "ffn_hidden_size"}


def test_limits_on_time_and_gpu_hours_name_their_figures():
    arch = EXPERIMENTS["exp-006"]
    # bf16, one row of the input embedding: 2 × (8,199,180,288 − 32,127 × 4,096) bytes of weights;
    # 2 × 44 layers × 8 groups × 128 × 4,096 tokens × 2 bytes of cache; at 0.67 × 4.8 TB/s
    (slow,) = breaches(arch, BIELIK_11B_V3, Limits(max_milliseconds=5.0), RUN)
    assert slow == "too slow: 5.247 ms a token on H200, limit 5"
    limits = Limits(max_gpu_hours=1.0)
    (dear,) = breaches(arch, BIELIK_11B_V3, limits, RUN)
    taken = 16 * hours(arch, BIELIK_11B_V3, RUN, limits.cluster)
    assert dear == f"too dear: {taken:,.0f} GPU-hours on 2x8xH200, limit 1"
    assert not breaches(arch, BIELIK_11B_V3, Limits(max_gpu_hours=taken + 1), RUN)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_parameters": 5, "min_parameters": 6}, "min_parameters is 6"),
        ({"max_memory_gb": -1}, "max_memory_gb is -1"),
        ({"device": "H900"}, "no GPU 'H900'"),
        ({"cluster": "many"}, "cluster is 'many'"),
    ],
)
def test_limits_that_cannot_be_are_one_line(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Limits(**changes)
