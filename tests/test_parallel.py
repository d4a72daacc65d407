"""What a layout is: its processes, and the sequences that its ranks can share."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nemo_bielik.align.grpo import GrpoConfig
from nemo_bielik.compare.stage import CompareConfig
from nemo_bielik.distill.cache_stage import CacheTeacherConfig
from nemo_bielik.distill.stage import DistillConfig, TeacherParallelConfig
from nemo_bielik.errors import ConfigError
from nemo_bielik.export import ExportConfig
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.phases import Phase
from nemo_bielik.pruning.score import ScoreConfig
from nemo_bielik.quantize.fake_quantization import FakeQuantizationConfig
from nemo_bielik.recipes import minitron_7b, search
from nemo_bielik.shape import Shape
from nemo_bielik.training import TrainSettings

SPLIT = ParallelConfig(context=2)
HERE = Path("x")
DISTILL = partial(DistillConfig, model=HERE, train_data=[HERE], output=HERE, parallel=SPLIT)


def test_a_split_sequence_needs_tensor_ranks():
    with pytest.raises(ConfigError) as caught:
        ParallelConfig(sequence=True)
    assert "\n" not in str(caught.value)
    assert "parallel.sequence" in str(caught.value)
    assert "parallel.tensor" in str(caught.value)
    assert ParallelConfig(sequence=True, tensor=2).sequence


def test_processes_are_the_product_of_the_axes():
    assert ParallelConfig().processes == 1
    assert ParallelConfig(tensor=2, pipeline=3, data=5).processes == 30


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
