"""Functions that GPU tests run in the lanes, where Megatron is imported."""

from pathlib import Path

from engine_cases import whole_logits
from torch import Tensor

from nemo_bielik.parallel import ParallelConfig


def bf16_logits(model: Path, tokens: Tensor, positions: Tensor) -> Tensor:
    """Return the logits [b, s, vocab] of packed sequences in bf16, on the CPU."""
    from nemo_bielik.megatron.model import inference_model

    with inference_model(model, ParallelConfig(), tokens.size(1), "bf16") as (_, chunks):
        found = whole_logits(chunks, tokens.cuda(), positions.cuda())
    assert found is not None
    return found.reshape(*tokens.shape, -1).float().cpu()
