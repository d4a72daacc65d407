"""What training holds, counted on real models, is what the planner says; recomputation."""

from pathlib import Path

import pytest
import torch
from engine_room import STUDENT

from nemo_bielik.arch import BIELIK_11B_V3, BIELIK_MINITRON_7B, ModelArch
from nemo_bielik.checkpoint import Checkpoint
from nemo_bielik.distill.fused import OutputLayer, buffer_for, chunks_of
from nemo_bielik.parallel import ParallelConfig
from nemo_bielik.planner.parameters import rows
from nemo_bielik.planner.training_memory import (
    CHUNK_BYTES,
    Layout,
    Workload,
    layer_activation_bytes,
    stage_memory,
)

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
META = {"dtype": torch.bfloat16, "device": "meta"}
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


def plain_extras(arch: ModelArch, layout: Layout, tokens: int) -> float:
    """Return the bytes that plain layers keep of a layer beyond the plan's fused ones, by hand.

    A norm has its input, and that divided by its length, in float32 and the length itself, where a
    fused one has the input in bf16; a gate its SiLU and the factor beside it, bf16 each; attention
    the logarithm of every head's sum; rotation four tables of a row's angles.
    """
    norms = 2 * (4 + 4 - 2) * arch.hidden_size + 2 * 4
    split = 4 * arch.ffn_hidden_size + 4 * arch.num_attention_heads
    rotation = 4 * 2 * arch.head_dim * tokens / 2  # of one of the two rows
    return tokens * (norms + split / layout.tensor) + rotation


@pytest.mark.parametrize("name", ["one rank", "tensor=2", "context=2"])
def test_layers_keep_what_the_plan_says_and_what_plain_ones_add(call, models, name) -> None:
    """To the byte: attention's output is there twice, keys and values of all ranks once."""
    parallel, arch = LAYOUTS[name], Checkpoint.open(models["five layers"]).arch
    layout = Layout(parallel.tensor, 1, 1, 2, False, False, parallel.context)
    tokens = layout.tokens(Workload(arch, None, 16, 2))
    planned = layer_activation_bytes(arch, layout, tokens)
    if parallel.context == 1:  # counted with the attention of context ranks all the same
        planned += 2 * tokens * arch.num_attention_heads * arch.head_dim / layout.tensor
    for found in call(
        "memory_cases:kept", models["five layers"], parallel, False, parallel=parallel
    ):
        assert found["layers"] == 5 * (planned + plain_extras(arch, layout, tokens))
        assert found["mask"] == 2 * tokens * 16  # as attention adds it, in bf16


def test_recomputation_keeps_a_layers_input_alone(call, models) -> None:
    arch = Checkpoint.open(models["five layers"]).arch
    found = call("memory_cases:kept", models["five layers"], ParallelConfig(), True)[0]
    angles = 4 * 16 * arch.head_dim
    assert found == {"layers": 5 * 2 * 32 * arch.hidden_size + angles, "mask": 32 * 16}


def test_a_chunk_of_logits_is_as_large_as_the_plan_has_it() -> None:
    """Both models' logits of a chunk, and as much again that the loss takes beside them."""
    layers = [
        OutputLayer(torch.empty(32_768, arch.hidden_size, **META), torch.empty(shape, **META))
        for arch in (BIELIK_MINITRON_7B, BIELIK_11B_V3)
        if (shape := (arch.vocab_size, arch.hidden_size))
    ]
    chunks = chunks_of(layers, CHUNK_BYTES)
    held = sum(
        buffer.numel() * buffer.itemsize for buffer in (buffer_for(x, chunks) for x in layers)
    )
    assert 0.9 * CHUNK_BYTES < held <= CHUNK_BYTES
    assert chunks == chunks_of(layers)  # what a GPU takes where nothing is said
