"""Layouts are refused before anything is submitted, where a model's sizes are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.errors import ConfigError
from nemo_bielik.known_layouts import check_known_layouts
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.submit import submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.pipeline import pipeline_jobs
from nemo_bielik.recipes import alignment, bielik_11b_v3, minitron_7b, tiny, tiny_stages
from nemo_bielik.shape import Shape

FIVE = ParallelConfig(tensor=5)


def test_a_model_called_like_a_preset_is_known():
    assert check_known_layouts([bielik_11b_v3.score()]) == []
    with pytest.raises(ConfigError, match=r"heads \(32\) is not divisible by parallel.tensor \(5"):
        check_known_layouts([replace(bielik_11b_v3.score(), parallel=FIVE)])


def test_a_model_that_is_here_is_known(make_model):
    model = make_model(num_hidden_layers=2)
    config = replace(minitron_7b.distill(), model=model, sequence_length=16)
    assert check_known_layouts([replace(config, parallel=ParallelConfig(pipeline=2))]) == []
    with pytest.raises(ConfigError, match=r"2 layers cannot fill parallel.pipeline \(3\) stages"):
        check_known_layouts([replace(config, parallel=ParallelConfig(pipeline=3))])


def test_a_model_that_nobody_knows_is_named():
    config = replace(minitron_7b.distill(), model=Path("models/mine"))
    (line,) = check_known_layouts([config])
    assert line.startswith("model models/mine is not here")


def test_the_students_of_recipes_are_known():
    """The report's has 40 layers and ffn 11,264, the candidates have those of its Table 2."""
    assert check_known_layouts([minitron_7b.distill()]) == []
    deep = replace(minitron_7b.distill(), parallel=ParallelConfig(pipeline=48))
    with pytest.raises(ConfigError, match=r"40 layers cannot fill parallel.pipeline \(48\) stages"):
        check_known_layouts([deep])
    deep = replace(alignment.sft(), parallel=ParallelConfig(pipeline=48))
    with pytest.raises(ConfigError, match=r"40 layers cannot fill parallel.pipeline \(48\) stages"):
        check_known_layouts([deep])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"num_layers": 60}, "num_layers is 60; it can be at most the model's 50"),
        ({"num_query_groups": 3}, r"num_attention_heads \(32\) .* num_query_groups \(3\)"),
        ({"ffn_hidden_size": 11_265}, r"11265\) is not divisible by parallel.tensor \(8\)"),
        ({"num_layers": 6}, r"6 layers cannot fill parallel.pipeline \(7\) stages"),
    ],
)
def test_a_chains_student_is_known_by_its_target(target, message):
    chain = minitron_7b.pipeline()
    layout = ParallelConfig(tensor=8) if "num_layers" not in target else ParallelConfig(pipeline=7)
    recovery = replace(chain.recovery, parallel=layout)
    chain = replace(chain, target=Shape(**target), recovery=recovery)
    with pytest.raises(ConfigError, match=message):
        check_known_layouts([job.config for job in pipeline_jobs(chain)])


def test_a_chains_own_student_comes_before_that_of_a_recipe():
    """It lies at the same place, with 44 layers instead of 40."""
    chain = minitron_7b.pipeline()
    recovery = replace(chain.recovery, parallel=ParallelConfig(pipeline=44))
    chain = replace(chain, target=Shape(num_layers=44), recovery=recovery)
    assert check_known_layouts([job.config for job in pipeline_jobs(chain)]) == []


def test_of_a_chain_without_a_model_the_trained_teacher_is_known():
    chain = replace(tiny_stages.pipeline(), recovery=tiny.recovery())
    assert check_known_layouts([job.config for job in pipeline_jobs(chain)]) == []
    wide = replace(chain.teacher, parallel=ParallelConfig(tensor=4))
    with pytest.raises(ConfigError, match=r"heads \(6\) is not divisible by parallel.tensor \(4\)"):
        check_known_layouts([job.config for job in pipeline_jobs(replace(chain, teacher=wide))])


def test_what_has_no_layout_has_nothing_to_check():
    assert check_known_layouts([minitron_7b.prune()]) == []


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
