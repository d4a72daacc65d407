"""The table of methods is whole: every row resolves, and every command line about it answers."""

import importlib.util
import json

import pytest

from nemo_bielik.cli import main
from nemo_bielik.errors import ConfigError
from nemo_bielik.pruning.methods import METHODS, STATISTICS, find_method, resolve
from nemo_bielik.pruning.prune import PruneConfig
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.pruning.select import PRUNABLE

REPORT = {
    "magnitude",
    "sparsegpt",
    "wanda",
    "shortgpt",
    "llm-pruner",
    "sheared-llama",
    "minitron",
}


def test_the_seven_methods_of_the_report_are_there():
    assert set(METHODS) == REPORT
    assert all(name == method.name for name, method in METHODS.items())


@pytest.mark.parametrize("name", sorted(REPORT))
def test_every_row_resolves(name):
    method = METHODS[name]
    assert callable(resolve(method.function))
    assert set(method.cuts) <= set(PRUNABLE)
    if method.statistics:
        module = STATISTICS[method.statistics].collect.partition(":")[0]
        assert importlib.util.find_spec(module)  # not imported: it loads the engine
        assert module.endswith("_mcore")


def test_every_kind_of_statistics_serves_a_method_and_has_a_file_of_its_own():
    assert {method.statistics for method in METHODS.values()} - {""} == set(STATISTICS)
    assert len({row.file for row in STATISTICS.values()}) == len(STATISTICS)


def test_an_unknown_method_is_one_line_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'wandas' \(did you mean 'wanda'\?\)") as caught:
        find_method("wandas")
    assert "\n" not in str(caught.value)


def test_the_command_lists_them(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out
    assert all(name in lines for name in REPORT)
    assert main(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} == REPORT


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "wanda", "num_layers": 3, "scores": "s"}, "changes no size"),
        ({"method": "wanda", "target": "exp-010", "scores": "s"}, "changes no size"),
        ({"method": "wanda", "scores": "s"}, "either --sparsity or --pattern"),
        (
            {"method": "wanda", "sparsity": 0.5, "pattern": "2:4", "scores": "s"},
            "either --sparsity or --pattern",
        ),
        ({"method": "wanda", "sparsity": 0.5}, "bielik score --method wanda"),
        ({"method": "magnitude", "sparsity": 1.5}, "sparsity"),
        (
            {"method": "wanda", "sparsity": 0.5, "scope": "model", "scores": "s"},
            "scope means nothing",
        ),
        ({"method": "magnitude", "pattern": "2:4", "scope": "model"}, "scope=model"),
        ({"method": "magnitude", "pattern": "4:2"}, "4:2"),
        ({"method": "magnitude", "pattern": "two"}, "two"),
        ({"method": "minitron", "sparsity": 0.5, "scores": "s"}, "leaves no zeros"),
        ({"method": "minitron", "taylor": "fisher", "num_layers": 3, "scores": "s"}, "llm-pruner"),
        ({"method": "wanda", "damping": 0.1, "sparsity": 0.5, "scores": "s"}, "sparsegpt"),
        ({"method": "wanda", "rescale_norms": False, "sparsity": 0.5, "scores": "s"}, "minitron"),
        ({"method": "magnitude", "sparsity": 0.5, "scores": "s"}, "drop scores"),
        ({"method": "sparsegpt", "damping": 0.0, "sparsity": 0.5, "scores": "s"}, "above 0"),
        ({"method": "minitron", "num_layers": 3}, "bielik score --method minitron"),
        ({"method": "minitron", "scores": "s"}, "nothing to prune"),
        ({"method": "llm-pruner", "aggregation": "mean", "scores": "s"}, "aggregation"),
        ({"method": "magic", "num_layers": 3}, "magic"),
    ],
)
def test_settings_that_a_method_cannot_take_are_one_line(tmp_path, settings, words):
    with pytest.raises(ConfigError, match=words) as caught:
        PruneConfig(model=tmp_path, output=tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "magnitude"}, "needs no scores"),
        ({"method": "wanda", "engine": "modelopt"}, "Minitron's scores only"),
        ({"engine": "other"}, "engine is 'other'"),
    ],
)
def test_scores_that_make_no_sense_are_one_line(tmp_path, settings, words):
    paths = {"model": tmp_path, "data": tmp_path, "output": tmp_path / "out"}
    with pytest.raises(ConfigError, match=words) as caught:
        ScoreConfig(**paths, **settings)
    assert "\n" not in str(caught.value)
