"""Layouts are refused before anything is submitted, where a model's sizes are known."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nemo_bielik import cli
from nemo_bielik.align.grpo import GrpoConfig
from nemo_bielik.compare.stage import CompareConfig
from nemo_bielik.distill.cache_stage import CacheTeacherConfig
from nemo_bielik.distill.stage import DistillConfig, TeacherParallelConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.export import ExportConfig
from nemo_bielik.launch.site import LocalSite
from nemo_bielik.launch.submit import submit
from nemo_bielik.launch.tasks import Task
from nemo_bielik.parallel import ParallelConfig, check_known_layouts
from nemo_bielik.phases import Phase
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig
from nemo_bielik.recipes import bielik_11b_v3, minitron_7b, search
from nemo_bielik.shape import Shape
from nemo_bielik.training import TrainSettings

FIVE = ParallelConfig(tensor=5)
SPLIT = ParallelConfig(context=2)
HERE = Path("x")
DISTILL = partial(DistillConfig, model=HERE, train_data=[HERE], output=HERE, parallel=SPLIT)


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


def test_context_ranks_are_processes_but_no_data_ranks():
    assert ParallelConfig(tensor=2, pipeline=3, data=5, context=7).processes == 210
    shared = TrainSettings(global_batch_size=2, parallel=ParallelConfig(data=2, context=4))
    assert shared.parallel.processes == 8  # and two sequences are enough for them


@pytest.mark.parametrize(
    ("layout", "length", "unit"),
    [
        (SPLIT, 4094, "2 × parallel.context = 4"),
        (ParallelConfig(context=3), 4096, "2 × parallel.context = 6"),
        (ParallelConfig(tensor=4, sequence=True), 30, "parallel.tensor = 4"),
        (
            ParallelConfig(context=2, tensor=4, sequence=True),
            4104,
            "2 × parallel.context × parallel.tensor = 16",
        ),
    ],
)
def test_ranks_share_sequences_equally(layout, length, unit):
    words = f"^sequence_length is {length}; it must be a multiple of {unit}, since"
    with pytest.raises(ConfigError, match=words):
        TrainSettings(parallel=layout, sequence_length=length)
    phases = [Phase(iters=20, sequence_length=48), Phase(iters=20, sequence_length=length)]
    with pytest.raises(ConfigError, match=words.replace("^", r"^phases\[1\]: ")):
        TrainSettings(parallel=layout, phases=phases, save_interval=9)
    # of a run in phases only their lengths count
    TrainSettings(parallel=layout, phases=phases[:1], save_interval=9, sequence_length=length)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(ScoreConfig, model=HERE, data=HERE, output=HERE, parallel=SPLIT), "scoring"),
        (
            partial(
                CacheTeacherConfig, teacher=HERE, train_data=[HERE], output=HERE, parallel=SPLIT
            ),
            "a cached teacher",
        ),
        (partial(DISTILL, cache=HERE), "a cached teacher"),
        (partial(DISTILL, teacher=HERE, engine="stock"), "engine=stock"),
        (
            partial(DISTILL, teacher=HERE, teacher_parallel=TeacherParallelConfig(tensor=2)),
            "a teacher in a layout of its own",
        ),
        (
            partial(DISTILL, teacher=HERE, quantization=FakeQuantizationConfig(format="fp8")),
            "quantization.format=fp8",
        ),
        (partial(ExportConfig, run=HERE, output=HERE, parallel=SPLIT), "an export"),
    ],
)
def test_what_needs_whole_sequences_refuses_parts_in_one_line(make, words):
    with pytest.raises(ConfigError, match=f"^parallel.context is 2; {words} needs whole") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_chains_that_score_refuse_parts_of_sequences():
    split = replace(minitron_7b.recovery(), parallel=ParallelConfig(data=8, context=2))
    chain = minitron_7b.pipeline()
    replace(chain, recovery=split, score_parallel=ParallelConfig(data=16))
    with pytest.raises(ConfigError, match=r"^recovery.parallel.context is 2; scoring \(score_par"):
        replace(chain, recovery=split, score_parallel=None)
    with pytest.raises(ConfigError, match=r"^recovery.parallel.context is 2; a search's scoring"):
        replace(search.paper(), recovery=split)
    with pytest.raises(ConfigError, match=r"^recovery.parallel.context is 2; scoring needs"):
        CompareConfig(
            model=HERE,
            calibration=HERE,
            train_data=HERE,
            validation_data=HERE,
            texts=[HERE],
            output=HERE,
            target=Shape(num_layers=1),
            recovery=split,
        )
    with pytest.raises(ConfigError, match="this stage is split by data only"):
        GrpoConfig(model=HERE, tasks=[HERE], output=HERE, parallel=SPLIT)


def test_a_live_teacher_is_split_as_its_student():
    found = DISTILL(teacher=HERE, teacher_parallel=TeacherParallelConfig(tensor=1))
    assert found.teacher_layout == found.parallel == SPLIT
