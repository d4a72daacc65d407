"""Layouts: legal ones only, those that fit first, the choice explained."""

import json

import pytest

from nemo_bielik import cli
from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.devices import Cluster
from nemo_bielik.planner.layout_plan import LayoutPlanConfig, print_layouts, reason
from nemo_bielik.planner.layouts import MARGIN, estimates, legal
from nemo_bielik.planner.parameters import count_parameters
from nemo_bielik.planner.training_memory import Workload

THREE_GROUPS = ModelArch(
    name="three-groups",
    vocab_size=1024,
    hidden_size=96,
    ffn_hidden_size=128,
    num_layers=4,
    num_attention_heads=6,
    num_query_groups=3,
    head_dim=16,
)
PAIR = Workload(BIELIK_MINITRON_7B, BIELIK_11B_V3, 4096, 64)


@pytest.mark.parametrize("name", ["2x8xH200", "8xH100", "3x4xA100", "1xB200"])
def test_every_layout_is_one_that_the_engine_takes(name: str) -> None:
    from nemo_bielik.parallel import ParallelConfig
    from nemo_bielik.training import TrainSettings

    cluster = Cluster.parse(name)
    work = Workload(BIELIK_MINITRON_7B, BIELIK_11B_V3, 4096, 96)
    layouts = list(legal(work, cluster))
    assert layouts and len(set(layouts)) == len(layouts)
    for layout in layouts:
        parallel = ParallelConfig(
            tensor=layout.tensor,
            pipeline=layout.pipeline,
            data=layout.data,
            sequence=layout.sequence,
            context=layout.context,
        )
        assert parallel.processes == cluster.gpus
        assert cluster.gpus_per_node % (layout.tensor * layout.context) == 0
        TrainSettings(  # refuses what does not divide
            global_batch_size=96, micro_batch_size=layout.micro_batch_size, parallel=parallel
        )


def test_dimensions_that_do_not_divide_leave_a_size_out() -> None:
    work = Workload(THREE_GROUPS, None, 4096, 64)
    assert {layout.tensor for layout in legal(work, Cluster.parse("8xH200"))} == {1}
    uneven = list(legal(PAIR, Cluster.parse("8xH200")))
    assert {layout.pipeline for layout in uneven} == {1, 2, 4, 8}  # 50 layers, unevenly


def test_those_that_fit_come_first_and_the_fastest_before_all() -> None:
    found = estimates(PAIR, Cluster.parse("8xH100"))
    fitting = [estimate for estimate in found if estimate.fits]
    assert 0 < len(fitting) < len(found) and found[: len(fitting)] == fitting
    room = (1 - MARGIN) * 80e9
    assert all((estimate.memory_bytes <= room) == estimate.fits for estimate in found)
    speeds = [estimate.tokens_per_second for estimate in fitting]
    assert speeds == sorted(speeds, reverse=True)


def test_a_batch_that_no_layout_shares_is_refused() -> None:
    work = Workload(THREE_GROUPS, None, 4095, 3)  # at most four stages: two replicas or more
    with pytest.raises(ConfigError, match="no layout splits 8 GPUs for batches of 3"):
        estimates(work, Cluster.parse("8xH200"))


def test_sequences_are_shared_where_two_equal_pieces_a_rank_go_into_them() -> None:
    work = Workload(THREE_GROUPS, None, 24, 3)
    layouts = list(legal(work, Cluster.parse("8xH200")))
    # 8 ranks would have pieces of 1.5 tokens; 1 or 2 leave at least two replicas for 3 sequences
    assert {layout.context for layout in layouts} == {2, 4}
    with pytest.raises(ConfigError, match="no layout splits 8 GPUs for batches of 3"):
        estimates(work, Cluster.parse("8xH200"), whole_sequences=True)


def test_the_command_prints_the_choice_and_its_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_layouts(LayoutPlanConfig(cluster="2x8xH200", json=True)) == 0
    plan = json.loads(capsys.readouterr().out)
    chosen = plan["chosen"]
    assert chosen == plan["layouts"][0] and chosen["fits"]
    hours = 25e9 / chosen["tokens_per_second"] / 3600
    assert chosen["hours"] == pytest.approx(hours, abs=0.01)
    assert chosen["gpu_hours"] == pytest.approx(16 * hours, abs=0.1)
    assert sum(chosen["memory_parts"].values()) == pytest.approx(chosen["memory_bytes"], abs=10)


@pytest.mark.parametrize(("context", "told"), [(1, False), (8, True)])
def test_what_no_gpu_has_told_is_said_of_context_ranks(context: int, told: bool) -> None:
    cluster = Cluster.parse("8xH200")
    found = estimates(Workload(BIELIK_MINITRON_7B, None, 32_768, 64), cluster)
    chosen = [estimate for estimate in found if estimate.layout.context == context]
    assert ("no GPU has told yet" in reason(chosen, cluster)) is told


def test_a_distillation_is_planned_beside_its_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    """As the command line has it, in either spelling of its options."""
    words = ["plan", "--cluster=2x8xH200", "--top=1"]
    heads = []
    for more in ([], ["--distill"], ["--no-distill"]):
        assert cli.main([*words, *more]) == 0
        heads.append(capsys.readouterr().out.splitlines()[0])
    assert heads[0] == heads[1] and "bielik-minitron-7b from bielik-11b-v3 on" in heads[0]
    assert heads[2].startswith("bielik-minitron-7b on 2x8xH200")


def test_where_nothing_fits_the_leanest_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_layouts(LayoutPlanConfig(cluster="1xL40S")) == 1
    assert "Nothing fits: the leanest layout takes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"efficiency": 1.5}, "efficiency is 1.5"),
        ({"top": 0}, "top is 0"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"tokens": float("inf")}, "tokens is inf; it must be a finite number"),
        ({"tokens": float("nan")}, "tokens is nan; it must be a finite number"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LayoutPlanConfig(cluster="8xH200", **wrong)  # type: ignore[arg-type]


def test_sequences_that_the_engine_would_refuse_are_not_planned() -> None:
    with pytest.raises(ConfigError, match=r"sequence_length is 65536; .* knows 32768 positions"):
        print_layouts(LayoutPlanConfig(cluster="8xH200", sequence_length=65_536))


def test_what_takes_the_memory_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """A replica a GPU: 7.48 billion weights of 2 bytes, gradients of 4, optimizer of 12 / 16."""
    assert print_layouts(LayoutPlanConfig(cluster="2x8xH200")) == 0
    said = capsys.readouterr().out
    assert "Take parallel.tensor=1 parallel.pipeline=1 parallel.context=1 parallel.data=16" in said
    held = count_parameters(BIELIK_MINITRON_7B) / 1e9
    for name, size in (("weights", 2), ("gradients", 4), ("optimizer", 12 / 16)):
        assert f" {name} {size * held:.1f} GB," in said
    for name in ("teacher", "activations", "loss", "context", "fragments"):
        assert f"{name} " in said.splitlines()[-1]
