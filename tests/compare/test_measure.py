"""What a stage cost, taken from a real run of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from held_stage import SECONDS, HoldConfig

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.compare.measure import (
    Measured,
    count_revived,
    count_zeros,
    read_cost,
    run_measured,
)
from nemo_bielik.errors import StorageError
from nemo_bielik.launch.lanes import Lanes
from nemo_bielik.manifest import Manifest

MEGABYTE = 1_000_000


def measured(root: Path, name: str = "out", megabytes: int = 96) -> Measured:
    config = HoldConfig(output=root / name, num_bytes=megabytes * MEGABYTE)
    return Measured("held_stage:hold", config, root / f"costs/{name}.json", needs="numpy")


def test_seconds_and_added_bytes_are_those_of_the_stage_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Fresh processes: a large stage before a small one does not hide what the small one needs."""
    for name, megabytes in (("large", 300), ("small", 60)):
        stage = measured(tmp_path, name, megabytes)
        assert stage.parallel is None
        with Lanes(1) as lanes:
            lanes.run("nemo_bielik.compare.measure:run_measured", stage)
        cost = read_cost(stage.record)
        assert (stage.config.output / "word").read_text() == "done"
        assert cost["seconds"] == Manifest.load(stage.config.output).wall_seconds >= SECONDS
        # beside the memory held, torch, which is asked for CUDA's share
        assert 0.9 * megabytes * MEGABYTE < cost["added_bytes"] < (megabytes + 60) * MEGABYTE
    assert capfd.readouterr().out == ""


def test_what_is_done_is_neither_run_nor_measured_again(tmp_path: Path) -> None:
    stage = measured(tmp_path)
    run_measured(stage)
    made = (stage.config.output / "word").stat().st_mtime_ns
    stage.record.write_text(json.dumps({"seconds": 7.0, "added_bytes": 11}))
    run_measured(stage)
    assert read_cost(stage.record) == {"seconds": 7.0, "added_bytes": 11}
    assert (stage.config.output / "word").stat().st_mtime_ns == made


def test_only_zeros_of_projections_count(
    make_model: Callable[..., Path], edit_weights: Callable[..., Any]
) -> None:
    directory = make_model(seed=3)
    assert count_zeros(Checkpoint.open(directory)) == 0
    with edit_weights(directory) as weights:
        weights["model.layers.0.self_attn.q_proj.weight"][2, :5] = 0
        weights["model.layers.3.mlp.down_proj.weight"][:, 1] = 0  # 24 hidden channels
        weights["model.layers.1.self_attn.k_proj.weight"][0, 0] = -0.0
        weights["model.layers.1.input_layernorm.weight"][:3] = 0
        weights["model.embed_tokens.weight"][7] = 0
        weights["lm_head.weight"][7] = 0
    assert count_zeros(Checkpoint.open(directory)) == 5 + 24 + 1


def test_other_settings_are_refused(tmp_path: Path) -> None:
    stage = measured(tmp_path)
    run_measured(stage)
    other = HoldConfig(output=stage.config.output, words="other")
    with pytest.raises(StorageError, match="another setting words"):
        run_measured(Measured(stage.target, other, stage.record))


def test_one_weight_that_comes_back_is_counted_even_if_another_goes(
    make_model: Callable[..., Path], edit_weights: Callable[..., Any]
) -> None:
    pruned, recovered = make_model(seed=3), make_model(seed=3)
    name = "model.layers.0.self_attn.q_proj.weight"
    for directory, zeros in ((pruned, [0, 1]), (recovered, [1, 2])):
        with edit_weights(directory) as weights:
            weights[name].view(-1)[zeros] = 0
    assert count_revived(Checkpoint.open(pruned), Checkpoint.open(recovered)) == 1
