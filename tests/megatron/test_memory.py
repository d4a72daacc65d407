"""What training holds, counted on real models, is what the planner says; recomputation."""

from pathlib import Path

import pytest
import torch
from engine_room import STUDENT

from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.planner.parameters import rows
from nemo_bielik.planner.training_memory import Layout, Workload, stage_memory

LAYOUTS = {
    "one rank": ParallelConfig(),
    "tensor=2": ParallelConfig(tensor=2),
    "pipeline=2": ParallelConfig(pipeline=2),
    "data=2": ParallelConfig(data=2),
    "context=2": ParallelConfig(context=2),
}
MODELS = {
    "five layers": {"num_hidden_layers": 5},
    "tied": {"tie_word_embeddings": True},
}
#: Elements by which Megatron-Core pads every tensor of a buffer that ranks share.
PADDING = 64


@pytest.fixture(scope="module")
def models(make_model):
    return {name: make_model(seed=3, **STUDENT, **sizes) for name, sizes in MODELS.items()}


@pytest.mark.parametrize("parallel", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_rank_holds_what_the_plan_says(call, models, name, parallel) -> None:
    arch = Checkpoint.open(models[name]).arch
    work = Workload(arch, None, 16, 4)
    axes = (parallel.tensor, parallel.pipeline, parallel.data)
    layout = Layout(*axes, 1, False, False, parallel.context)
    found = call("memory_cases:held", models[name], parallel, parallel=parallel)
    padding = PADDING * len(rows(arch))
    for rank, counted in enumerate(found):
        planned = stage_memory(work, layout, rank if parallel.pipeline > 1 else 0)
        assert counted["weights"] == planned["weights"]
        assert 0 <= counted["gradients"] - planned["gradients"] <= 4 * padding
        assert abs(counted["optimizer"] - planned["optimizer"]) <= 12 * padding
    if (
        parallel.data * parallel.context > 1
    ):  # the shares of all ranks are the whole, and nothing twice
        whole = stage_memory(work, Layout(1, 1, 1, 1, False, False), 0)["optimizer"]
        assert sum(counted["optimizer"] for counted in found) == whole


def test_recomputing_layers_run_twice_and_give_the_same_gradients(call, models) -> None:
    model: Path = models["five layers"]
    (passes, gradients), (again, recomputed) = (
        call("memory_cases:layer_passes", model, recompute)[0] for recompute in (False, True)
    )
    assert passes == [1] * 5 and again == [2] * 5
    assert gradients.keys() == recomputed.keys()
    for name, gradient in gradients.items():
        assert gradient.abs().max() > 0
        assert torch.equal(gradient, recomputed[name]), name
