"""What `bielik plan` prints."""

import json
import os

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, EXPERIMENTS, tiny
from nemo_bielik.errors import ConfigError
from nemo_bielik.planner.table import PlanConfig, print_plan, resolve_models

REQUIRED = (
    "name",
    "hidden_size",
    "ffn_hidden_size",
    "num_layers",
    "params",
    "params_one_embedding",
    "reduction_percent",
)


def output(capsys: pytest.CaptureFixture[str], **settings: object) -> str:
    print_plan(PlanConfig(**settings))  # type: ignore[arg-type]
    return capsys.readouterr().out


def test_json_is_one_object_with_source_and_candidates(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(output(capsys, json=True))
    assert list(plan) == ["source", "candidates"]
    assert plan["source"]["name"] == "bielik-11b-v3"
    assert [row["name"] for row in plan["candidates"]] == list(EXPERIMENTS)
    for row in (plan["source"], *plan["candidates"]):
        assert set(REQUIRED) <= set(row)
    noted = [row["name"] for row in plan["candidates"] if "note" in row]
    assert noted == ["exp-002", "exp-003"]


def test_json_agrees_with_hand_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(
        output(capsys, json=True, candidates=("exp-010",), context=(4096,), source="bielik-11b-v3")
    )
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 11264
    row = plan["candidates"][0]
    one_embedding = 40 * (layer + 2 * 4096) + 4096 + 32128 * 4096
    assert row["params_one_embedding"] == one_embedding
    assert row["weights_bytes"]["bf16"] == 2 * (one_embedding + 32128 * 4096)
    assert row["kv_cache_bytes"]["bf16"] == {"4096": 2 * 40 * 1024 * 2 * 4096}
    forward = 2 * (40 * layer + 32128 * 4096) + 4 * 40 * 4096 * 4097 / 2
    assert row["forward_flops_per_token"] == {"4096": forward}
    assert row["training_flops_per_token"] == {"4096": 3 * forward}


def test_tables_are_aligned_and_hold_the_reports_figures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = output(capsys)
    parameters = text.split("\n\n")[0].splitlines()[1:]
    assert len(parameters) == 1 + 11
    assert len({len(line) for line in parameters}) == 1
    assert "33.4 %" in next(line for line in parameters if "exp-010" in line)
    assert "7.89" in next(line for line in parameters if "exp-002*" in line)
    assert "Table 2 prints 7.90" in text
    assert max(map(len, text.split("\n\n")[1].splitlines())) <= 110


def test_the_footnote_belongs_to_the_reports_candidates_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "*" not in output(capsys, candidates=("exp-010", "source:ffn_hidden_size=9216"))


def test_units_follow_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, source="tiny-bielik-11b-v3", context=(64,))
    assert "Memory in MiB" in text
    assert "megaFLOPs" in text
    assert "in M" in text


def test_default_candidates() -> None:
    assert resolve_models(PlanConfig())[1] == list(EXPERIMENTS.values())
    small = resolve_models(PlanConfig(source="tiny-bielik-11b-v3"))[1]
    assert small == [tiny(arch) for arch in EXPERIMENTS.values()]
    assert resolve_models(PlanConfig(source="exp-010")) == (EXPERIMENTS["exp-010"], [])
    assert resolve_models(PlanConfig())[0] == BIELIK_11B_V3


@pytest.mark.parametrize("context", [(), (0,), (4096, -1)])
def test_context_must_be_lengths(context: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="context is"):
        PlanConfig(context=context)


def test_a_directory_named_like_a_preset_does_not_hide_it(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    os.mkdir("exp-010")
    assert resolve_models(PlanConfig(source="exp-010"))[0] == EXPERIMENTS["exp-010"]
