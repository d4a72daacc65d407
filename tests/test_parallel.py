"""Layouts are refused before anything is submitted, where a model's sizes are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.errors import ConfigError
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.submit import submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig, check_known_layouts
from nemo_bielik.recipes import bielik_11b_v3, minitron_7b

FIVE = ParallelConfig(tensor=5)


def test_a_model_called_like_a_preset_is_known():
    assert check_known_layouts(bielik_11b_v3.score()) == []
    with pytest.raises(ConfigError, match=r"heads \(32\) is not divisible by parallel.tensor \(5"):
        check_known_layouts(replace(bielik_11b_v3.score(), parallel=FIVE))


def test_a_model_that_is_here_is_known(make_model):
    model = make_model(num_hidden_layers=2)
    config = replace(minitron_7b.distill(), model=model, sequence_length=16)
    assert check_known_layouts(replace(config, parallel=ParallelConfig(pipeline=2))) == []
    with pytest.raises(ConfigError, match=r"2 layers cannot fill parallel.pipeline \(3\) stages"):
        check_known_layouts(replace(config, parallel=ParallelConfig(pipeline=3)))


def test_a_model_that_nobody_knows_is_named():
    (line,) = check_known_layouts(minitron_7b.distill())
    assert line.startswith("model runs/bielik-minitron-7b/models/pruned is not here")


def test_what_has_no_layout_has_nothing_to_check():
    assert check_known_layouts(minitron_7b.prune()) == []


def test_every_job_of_an_experiment_is_checked(tmp_path):
    jobs = [Task("prune", minitron_7b.prune()), Task("score", bielik_11b_v3.score())]
    wrong = replace(bielik_11b_v3.score(), parallel=FIVE)
    site = LocalSite(job_directory=tmp_path)
    with pytest.raises(ConfigError, match=r"not divisible by parallel.tensor \(5"):
        submit([*jobs, Task("score", wrong, name="wrong")], site, "night")
    assert not any(tmp_path.iterdir())


def test_the_command_line_checks_before_it_submits(capsys):
    words = ["score", "--factory", "bielik_11b_v3", "parallel.tensor=5", "parallel.data=1"]
    assert cli.main([*words, "--dry-run"]) == 2
    assert "is not divisible by parallel.tensor (5)" in capsys.readouterr().err
    assert cli.main([*words, f"--output={Path('somewhere')}", "--executor", "local"]) == 2
    assert "is not divisible by parallel.tensor (5)" in capsys.readouterr().err
