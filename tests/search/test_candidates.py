"""Shapes to try: legal, within limits, and spread."""

import functools
import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, ModelArch, preset
from nemo_bielik.errors import ConfigError
from nemo_bielik.parallel import ParallelConfig, check_sizes
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.layouts import estimates
from nemo_bielik.planner.memory import kv_cache_bytes, weights_bytes
from nemo_bielik.planner.parameters import count_one_embedding, count_parameters
from nemo_bielik.planner.roofline import seconds_per_token
from nemo_bielik.planner.training_memory import Workload
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
from nemo_bielik.search.limits import Limits, breaches, hours, misfit
from nemo_bielik.training import TrainSettings

RUN = minitron_7b.recovery()
SMALL_RUN = TrainSettings(iters=100, sequence_length=64, global_batch_size=4, micro_batch_size=2)
#: Room for rounding where two ways to the same figure are compared.
EXACT = 1 + 1e-12
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


def test_sizes_that_the_reports_shape_does_not_cut_stay():
    """1000 is no multiple of the step, 1000 // 64 · 2 = 30."""
    source = SOURCE.replace(hidden_size=1000, ffn_hidden_size=2200)
    found = {candidate.name: candidate.arch for candidate in paper(source)}
    assert (found["exp-010"].hidden_size, found["exp-010"].num_layers) == (1000, 8)
    assert found["exp-001"].hidden_size == 750  # × 3/4
    assert found["exp-001"].ffn_hidden_size == 2200
    for arch in found.values():
        assert arch.hidden_size % 2 == arch.ffn_hidden_size % 2 == 0


def test_of_a_small_original_shapes_that_are_one_are_given_once():
    source = SOURCE.replace(num_layers=4, hidden_size=24, ffn_hidden_size=20)
    found = [candidate.arch.replace(name="") for candidate in paper(source)]
    assert 1 < len(found) == len(set(found)) < 10
    assert source.replace(name="") not in found


def test_the_reports_proportions_of_an_odd_original_are_refused():
    with pytest.raises(ConfigError, match="ffn_hidden_size is 447; the engine trains even ones"):
        paper(SOURCE.replace(ffn_hidden_size=447))


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


@functools.cache
def grid() -> dict[ModelArch, dict[str, float]]:
    """Every shape of a coarse grid with its figures, counted tensor by tensor."""
    found = {}
    for arch in shapes(SOURCE, Generation(multiple=32, tensor=1, pipeline=1)):
        work = Workload(arch, SOURCE, SMALL_RUN.sequence_length, SMALL_RUN.global_batch_size)
        best = estimates(work, Cluster.parse("1x2xH200"), whole_sequences=True)[0]
        found[arch] = {
            "max_parameters": count_one_embedding(arch),
            "max_memory_gb": (weights_bytes(arch, "bf16") + kv_cache_bytes(arch, "bf16", 256))
            / 1e9,
            # 67 % of an H200's 4.8 TB/s
            "max_milliseconds": 1e3 * seconds_per_token(arch, "bf16", 0.67 * 4.8e12, 256),
            "max_gpu_hours": 2 * SMALL_RUN.tokens / best.tokens_per_second / 3600,
        }
    return found


@settings(max_examples=30, deadline=None)
@given(
    quantiles=st.dictionaries(
        st.sampled_from(["max_parameters", "max_memory_gb", "max_milliseconds", "max_gpu_hours"]),
        st.floats(0.3, 0.99),
        min_size=1,
    ),
    least=st.floats(0, 0.2),
    least_use=st.sampled_from([0.0, 0.8, 0.9, 0.97]),
    tensor=st.sampled_from([1, 2]),
    pipeline=st.sampled_from([1, 2]),
)
def test_no_limit_is_ever_broken_and_the_tightest_is_used(
    quantiles, least, least_use, tensor, pipeline
):
    """Limits are quantiles of the grid's own figures, so that they leave something."""

    def quantile(name: str, share: float) -> float:
        return sorted(figures[name] for figures in grid().values())[int(share * len(grid()))]

    upper = {name: quantile(name, share) for name, share in quantiles.items()}
    fewest = min(quantile("max_parameters", least), upper.get("max_parameters", math.inf))
    limits = Limits(**upper, min_parameters=fewest, context=256, cluster="1x2xH200")
    wanted = Generation(count=4, multiple=32, tensor=tensor, pipeline=pipeline, least_use=least_use)
    legal = {
        arch.name
        for arch, figures in grid().items()
        if all(figures[name] <= most * EXACT for name, most in upper.items())
        and figures["max_parameters"] >= fewest
        and max(figures[name] / most for name, most in upper.items()) >= least_use / EXACT
        and arch.num_query_groups % tensor == arch.num_layers % pipeline == 0
    }
    if len(legal) < 4:
        with pytest.raises(ConfigError, match=f"only {len(legal)} shapes of source are within"):
            generate(SOURCE, limits, wanted, SMALL_RUN, SOURCE)
        return
    found = generate(SOURCE, limits, wanted, SMALL_RUN, SOURCE)
    assert len({candidate.name for candidate in found}) == 4
    assert {candidate.name for candidate in found} <= legal
    for candidate in found:
        check_target(SOURCE, candidate.arch)
        check_sizes(ParallelConfig(tensor=tensor, pipeline=pipeline), 64, candidate.arch)
        assert candidate.arch.ffn_hidden_size % 32 == candidate.arch.hidden_size % 32 == 0


def test_with_an_upper_limit_alone_every_shape_uses_nine_tenths_of_it():
    limits = Limits(max_milliseconds=0.0006, context=256)
    for candidate in generate(SOURCE, limits, Generation(multiple=16), RUN, SOURCE):
        taken = 1e3 * seconds_per_token(candidate.arch, "bf16", 0.67 * 4.8e12, 256)
        assert 0.9 * 0.0006 <= taken <= 0.0006


def test_shapes_are_for_the_layout_of_the_run():
    limits = Limits(max_parameters=0.8 * count_one_embedding(SOURCE))
    run = replace(SMALL_RUN, parallel=ParallelConfig(tensor=2, pipeline=5))
    for candidate in generate(SOURCE, limits, Generation(count=3, multiple=16), run, SOURCE):
        assert candidate.arch.num_query_groups == 2
        assert candidate.arch.num_layers in (5, 10)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"least_use": 1.0}, r"generate.least_use is 1.0; it must be at least 0, below 1"),
        ({"count": 0}, "generate.count is 0; it must be 1 or more"),
        ({"tensor": -1}, "generate.tensor is -1; it must be 0 or more"),
        ({"vary": ["rope_theta"]}, "generate.vary is"),
    ],
)
def test_generations_that_cannot_be_are_one_line(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        Generation(**changes)


def test_a_limit_that_nothing_keeps_to_is_one_line():
    with pytest.raises(ConfigError, match="only 0 shapes of source are within limits") as caught:
        generate(SOURCE, Limits(max_parameters=10), Generation(multiple=8), RUN, SOURCE)
    assert "or lower generate.least_use" in str(caught.value)


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
    wanted = Generation(multiple=8, tensor=1, pipeline=1, least_use=0)
    chosen = generate(SOURCE, limits, wanted, RUN, SOURCE)
    found = coordinates([candidate.arch for candidate in chosen], SOURCE)
    for column, name in enumerate(PRUNABLE):
        assert len(set(found[:, column])) > 1, name
    # far more spread than ten neighbours of one corner
    everything = [a for a in shapes(SOURCE, wanted) if not breaches(a, SOURCE, limits, RUN)]
    grid = coordinates(everything, SOURCE)
    nearest = grid[np.argsort(np.linalg.norm(grid - grid[0], axis=1))[:10]]

    def spread(points: Any) -> float:
        return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(points, 2))

    assert spread(found) > 3 * spread(nearest)


def test_sizes_that_may_not_be_cut_stay():
    limits = Limits(max_parameters=0.8 * count_one_embedding(SOURCE))
    wanted = Generation(multiple=8, count=5, vary=["num_layers", "ffn_hidden_size"])
    for candidate in generate(SOURCE, limits, wanted, RUN, SOURCE):
        changed = [n for n in PRUNABLE if getattr(candidate.arch, n) != getattr(SOURCE, n)]
        assert set(changed) <= {"num_layers", "ffn_hidden_size"}


def test_limits_on_time_and_gpu_hours_name_their_figures():
    arch = EXPERIMENTS["exp-006"]
    # bf16, one row of the input embedding: 2 × (8,199,180,288 − 32,127 × 4,096) bytes of weights;
    # 2 × 44 layers × 8 groups × 128 × 4,096 tokens × 2 bytes of cache; at 0.67 × 4.8 TB/s
    (slow,) = breaches(arch, BIELIK_11B_V3, Limits(max_milliseconds=5.0), RUN)
    assert slow.words == "too slow: 5.247 ms a token on H200, limit 5"
    assert (slow.limit, slow.bound) == ("max_milliseconds", 5.0)
    assert slow.value == pytest.approx(5.247, abs=5e-4)
    limits = Limits(max_gpu_hours=1.0)
    (dear,) = breaches(arch, BIELIK_11B_V3, limits, RUN)
    taken = 16 * hours(arch, BIELIK_11B_V3, RUN, limits.cluster)
    assert dear.words == f"too dear: {taken:,.0f} GPU-hours on 2x8xH200, limit 1"
    assert (dear.limit, dear.value, dear.bound) == ("max_gpu_hours", taken, 1.0)
    assert not breaches(arch, BIELIK_11B_V3, Limits(max_gpu_hours=taken + 1), RUN)


def test_what_no_layout_fits_is_told_with_the_bytes_it_lacks():
    arch, limits = EXPERIMENTS["exp-010"], Limits(cluster="1x1xH200")
    (found,) = misfit(arch, BIELIK_11B_V3, limits, RUN)
    # on one GPU: 18 bytes of every parameter, 2 of every one of the teacher's; 90 % of 141 GB
    held = 18 * count_parameters(arch) + 2 * count_parameters(BIELIK_11B_V3)
    assert held / 1e9 < found.value < 1.2 * held / 1e9
    assert (found.limit, found.bound) == ("cluster", pytest.approx(126.9))
    assert found.words.startswith("does not fit 1x1xH200: ")
    assert misfit(arch, BIELIK_11B_V3, Limits(), RUN) == []


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
