"""Costs and commands from manifests."""

import shlex
from pathlib import Path

from nemo_bielik.commands import find_command, load
from nemo_bielik.config_text import to_plain
from nemo_bielik.options import parse_config
from nemo_bielik.phases import Phase
from nemo_bielik.report.costs import command_line, commits, seeds, stage_costs
from nemo_bielik.report.gather import read_run
from nemo_bielik.training import OptimConfig, TrainConfig


def test_a_command_gives_back_its_settings() -> None:
    config = TrainConfig(
        model=Path("in"),
        train_data=[Path("a tokens")],
        validation_data=Path("held"),
        output=Path("out"),
        iters=77,
        eval_interval=11,
        keep="best",
        optim=OptimConfig(max_lr=0.003, warmup_iters=5),
    )
    line = command_line("train", to_plain(config))
    assert "'a tokens'" in line
    assert "--global-batch-size 32" in line  # a default too: it may change one day
    words = [word.strip("'") for word in line.replace("'a tokens'", "a_tokens").split()[2:]]
    again = parse_config(load(find_command("train").config), words, "bielik train")
    again.train_data = [Path("a tokens")]
    assert again == config


def test_a_command_gives_back_its_blend_and_phases() -> None:
    config = TrainConfig(
        model=Path("in"),
        train_data=[Path("a"), Path("b")],
        train_weights=[0.7, 0.3],
        output=Path("out"),
        save_interval=5,
        phases=[Phase(iters=20), Phase(iters=5, sequence_length=64, train_data=[Path("c")])],
    )
    words = shlex.split(command_line("train", to_plain(config)))
    assert parse_config(load(find_command("train").config), words[2:], "bielik train") == config


def test_switches_and_lists() -> None:
    prune = {"model": "m", "rescale_norms": False, "num_layers": None, "num_query_groups": 2}
    assert command_line("prune", prune) == (
        "bielik prune --model m --no-rescale-norms --num-query-groups 2"
    )
    evaluate = {"model": "m", "texts": ["a.txt", "b.txt"], "facts": None}
    assert command_line("evaluate", evaluate) == "bielik evaluate --model m --texts a.txt b.txt"


def test_seeds_share_a_row(finished_run: Path) -> None:
    data = read_run(finished_run)
    rows = {row.label: row for row in stage_costs(data)}
    assert rows["distill: distilled"].times == 3
    assert rows["distill: distilled"].seconds == 3 * 300 * 0.16
    assert rows["distill: distilled"].tokens == 3 * 300 * 2048
    assert rows["evaluate"].times == 11
    total = sum(stage.manifest.wall_seconds for stage in data.stages)
    assert abs(sum(row.seconds for row in rows.values()) - total) < 1e-6
    assert seeds(data) == [1, 2, 3]
    assert commits(data) == ["0123456789ab"]


def test_stages_come_in_the_order_of_the_chain(finished_run: Path) -> None:
    names = [stage.name for stage in read_run(finished_run).stages]
    order = ["tokenizer", "tokens/train", "models/teacher", "scores", "models/pruned"]
    order += ["models/distilled-seed1", "models/label_trained-seed3", "evaluations/teacher"]
    assert [name for name in names if name in order] == order
