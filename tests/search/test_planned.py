"""What the planner says of the report's ten, counted on models that were built."""

import pytest

from nemo_bielik.arch import BIELIK_11B_V3, tiny
from nemo_bielik.planner.flops import forward_flops_per_token
from nemo_bielik.planner.parameters import count_one_embedding, count_parameters
from nemo_bielik.search.candidates import Candidate, paper

TEN = pytest.mark.parametrize("candidate", paper(BIELIK_11B_V3), ids=lambda ten: ten.name)


@TEN
def test_parameters_at_full_size_are_those_of_the_built_model(candidate: Candidate) -> None:
    """On torch's meta device: every tensor has its shape, and none its numbers."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**candidate.arch.to_hf_config())
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert count_parameters(candidate.arch) == counted
    assert count_one_embedding(candidate.arch) == counted - model.lm_head.weight.numel()


@TEN
def test_flops_are_those_that_torch_counts(candidate: Candidate) -> None:
    """In the report's proportions, at a size that can be run."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    arch = tiny(candidate.arch)
    config = transformers.AutoConfig.for_model(**arch.to_hf_config())
    config._attn_implementation = "eager"  # computes the whole square
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 64, dtype=torch.long))
    rotary = 2 * 64 * (arch.head_dim // 2)  # transformers makes that table by a product
    ours = 64 * forward_flops_per_token(arch, 64, causal=False)
    assert counter.get_total_flops() == ours + rotary
